//! The JSON of the documents, key by key: programs rely on it.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use mesh_api::{
    AddressesDocument, AttachDocument, BroadcastDocument, Capture, ConflictDocument, ConnectionCounts,
    ConnectionDocument, ConnectionState, Datapath, DetachDocument, ExposedDocument, FirewallDocument,
    GroupDocument, IpamDocument, IpamState, LaunchDocument, MacDocument, Overlay, OwnedDocument,
    PassedDocument, PeerConnectionDocument, PeerDocument, PendingDocument, PrimeDocument,
    RemovedPeerDocument, RemovedPeersDocument, ResetDocument, RouterDocument, RoutesDocument, StatusDocument,
    StopDocument, TargetDocument, TargetListDocument, TrafficDocument, UnicastDocument,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The document is written as `json`, and `json` is read as the document.
#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(document: &T, json: &str) {
    assert_eq!(serde_json::to_string(document).unwrap(), json);
    assert_eq!(&serde_json::from_str::<T>(json).unwrap(), document);
}

#[test]
fn launch_stop_and_reset() {
    golden(
        &LaunchDocument { peer_id: "abcdef010203".to_owned(), nickname: "h1".to_owned(), pid: 7 },
        r#"{"peer_id":"abcdef010203","nickname":"h1","pid":7}"#,
    );
    golden(&StopDocument { pid: 7 }, r#"{"pid":7}"#);
    golden(
        &ResetDocument { pid: None, removed: vec!["bridge mesh0".to_owned()], handed_over_to: None },
        r#"{"pid":null,"removed":["bridge mesh0"],"handed_over_to":null}"#,
    );
}

#[test]
fn attach_and_detach() {
    golden(
        &AttachDocument {
            container: "netns:c1".to_owned(),
            interface: "ethmesh".to_owned(),
            mac: "0a:00:00:00:00:01".to_owned(),
            addresses: vec!["10.32.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()],
            names: vec![],
            attached: true,
        },
        concat!(
            r#"{"container":"netns:c1","interface":"ethmesh","mac":"0a:00:00:00:00:01","#,
            r#""addresses":["10.32.0.1/24","fd00::1/64"],"names":[],"attached":true}"#
        ),
    );
    golden(
        &DetachDocument { container: "pid:7".to_owned(), addresses: vec!["10.32.0.1/24".parse().unwrap()] },
        r#"{"container":"pid:7","addresses":["10.32.0.1/24"]}"#,
    );
}

#[test]
fn status() {
    let mut connections = ConnectionCounts::default();
    for state in [ConnectionState::Established, ConnectionState::Established, ConnectionState::Retrying] {
        connections.count(state);
    }
    let document = StatusDocument {
        version: "0.1.0".to_owned(),
        router: RouterDocument {
            peer_id: "abcdef010203".to_owned(),
            identity: "abcdef01020300000000000000000000".to_owned(),
            network_id: None,
            fenced: false,
            nickname: "h1".to_owned(),
            port: 6783,
            pid: 7,
            uptime_seconds: 60,
            encryption: false,
            discovery: true,
            capture: Capture::Tap,
            datapath: Datapath::Sleeve,
            bridge: "mesh0".to_owned(),
            mtu: 1370,
        },
        connections,
        peers: 3,
        ipam: None,
        dns: None,
        traffic: TrafficDocument {
            passed: [(
                "bridge".to_owned(),
                [("in".to_owned(), PassedDocument { frames: 2, bytes: 128 })].into(),
            )]
            .into(),
            drops: [("replayed".to_owned(), 1)].into(),
            events: [].into(),
        },
        firewall: Some(FirewallDocument {
            up: true,
            detail: None,
            guarded_ports: 2,
            unguarded_ports: vec!["vethx".to_owned()],
            exposed: vec![ExposedDocument {
                address: "10.32.0.1/12".parse().unwrap(),
                masquerade: true,
                names: vec!["gate.mesh.internal".to_owned()],
            }],
        }),
        control: [("refused_by_rate".to_owned(), 2)].into(),
    };
    golden(
        &document,
        concat!(
            r#"{"version":"0.1.0","router":{"peer_id":"abcdef010203","identity":"abcdef01020300000000000000000000","#,
            r#""network_id":null,"fenced":false,"nickname":"h1","port":6783,"pid":7,"uptime_seconds":60,"encryption":false,"discovery":true,"capture":"tap","datapath":"sleeve","#,
            r#""bridge":"mesh0","mtu":1370},"connections":{"established":2,"pending":0,"connecting":0,"#,
            r#""retrying":1,"failed":0},"peers":3,"ipam":null,"dns":null,"#,
            r#""traffic":{"passed":{"bridge":{"in":{"frames":2,"bytes":128}}},"drops":{"replayed":1},"events":{}},"#,
            r#""firewall":{"up":true,"detail":null,"guarded_ports":2,"unguarded_ports":["vethx"],"#,
            r#""exposed":[{"address":"10.32.0.1/12","masquerade":true,"names":["gate.mesh.internal"]}]},"#,
            r#""control":{"refused_by_rate":2}}"#
        ),
    );
}

#[test]
fn connections() {
    let established = ConnectionDocument {
        peer_id: Some("abcdef010203".to_owned()),
        nickname: Some("h2".to_owned()),
        address: Some("[2001:db8::1]:6783".parse().unwrap()),
        outbound: true,
        state: ConnectionState::Established,
        overlay: Some(Overlay::Sleeve),
        encrypted: Some(true),
        mtu: Some(1370),
        rtt_ms: Some(0.25),
        loss: Some(0.5),
        info: None,
        received: Some(PassedDocument { frames: 2, bytes: 128 }),
        sent: Some(PassedDocument { frames: 3, bytes: 192 }),
    };
    golden(
        &established,
        concat!(
            r#"{"peer_id":"abcdef010203","nickname":"h2","address":"[2001:db8::1]:6783","outbound":true,"#,
            r#""state":"established","overlay":"sleeve","encrypted":true,"mtu":1370,"rtt_ms":0.25,"loss":0.5,"info":null,"#,
            r#""received":{"frames":2,"bytes":128},"sent":{"frames":3,"bytes":192}}"#
        ),
    );
    let failed = ConnectionDocument {
        peer_id: None,
        nickname: None,
        address: None,
        outbound: true,
        state: ConnectionState::Failed,
        overlay: None,
        encrypted: None,
        mtu: None,
        rtt_ms: None,
        loss: None,
        info: Some("the password is not the same".to_owned()),
        received: None,
        sent: None,
    };
    golden(
        &failed,
        concat!(
            r#"{"peer_id":null,"nickname":null,"address":null,"outbound":true,"state":"failed","overlay":null,"#,
            r#""encrypted":null,"mtu":null,"rtt_ms":null,"loss":null,"info":"the password is not the same","#,
            r#""received":null,"sent":null}"#
        ),
    );
}

#[test]
fn address_management() {
    let document = IpamDocument {
        range: Some("10.32.0.0/12".parse().unwrap()),
        default_subnet: Some("10.32.0.0/16".parse().unwrap()),
        network_id: Some("00112233445566778899aabbccddeeff".to_owned()),
        state: IpamState::UnreachableOwner,
        detail: "all free addresses there belong to others".to_owned(),
        owned: vec![OwnedDocument {
            peer_id: "abcdef010203".to_owned(),
            nickname: None,
            addresses: 524_288,
            share: 0.5,
            active: Some(2),
            reachable: false,
            retired: false,
        }],
        pending: vec![PendingDocument {
            request: "allocate 10.32.0.0/16 for netns:c1".to_owned(),
            waiting_for: None,
            seconds_left: 1.5,
        }],
        conflicts: vec![ConflictDocument {
            address: "10.32.0.7".parse().unwrap(),
            id: "db".to_owned(),
            peer_id: "0123456789ab".to_owned(),
            nickname: Some("h1".to_owned()),
            seen_at: None,
        }],
    };
    golden(
        &document,
        concat!(
            r#"{"range":"10.32.0.0/12","default_subnet":"10.32.0.0/16","#,
            r#""network_id":"00112233445566778899aabbccddeeff","state":"unreachable-owner","#,
            r#""detail":"all free addresses there belong to others","owned":[{"peer_id":"abcdef010203","#,
            r#""nickname":null,"addresses":524288,"share":0.5,"active":2,"reachable":false,"retired":false}],"#,
            r#""pending":[{"request":"allocate 10.32.0.0/16 for netns:c1","waiting_for":null,"seconds_left":1.5}],"#,
            r#""conflicts":[{"address":"10.32.0.7","id":"db","peer_id":"0123456789ab","nickname":"h1","seen_at":null}]}"#
        ),
    );
    golden(
        &AddressesDocument { id: "db".to_owned(), addresses: vec!["10.32.0.9/12".parse().unwrap()] },
        r#"{"id":"db","addresses":["10.32.0.9/12"]}"#,
    );
    golden(&PrimeDocument { network_id: "00ff".to_owned() }, r#"{"network_id":"00ff"}"#);
    let removed = RemovedPeerDocument { peer_id: "abcdef010203".to_owned(), addresses: 7 };
    golden(
        &RemovedPeersDocument { removed: vec![removed] },
        r#"{"removed":[{"peer_id":"abcdef010203","addresses":7}]}"#,
    );
}

#[test]
fn the_words_shown_to_people_are_those_of_the_json() {
    use ConnectionState::{Connecting, Established, Failed, Pending, Retrying};
    for state in [Established, Pending, Connecting, Retrying, Failed] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    use IpamState::{AwaitingConsensus, Disabled, Idle, Observing, Ready, UnreachableOwner, WaitingForSpace};
    for state in [Ready, Idle, AwaitingConsensus, Observing, WaitingForSpace, UnreachableOwner, Disabled] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    for overlay in [Overlay::Vxlan, Overlay::Ovs, Overlay::Sleeve] {
        assert_eq!(serde_json::to_value(overlay).unwrap(), overlay.as_str());
    }
}

#[test]
fn peers() {
    let document = PeerDocument {
        peer_id: "abcdef010203".to_owned(),
        nickname: "h1".to_owned(),
        is_self: true,
        version: 4,
        connections: vec![PeerConnectionDocument {
            peer_id: "0102030405ff".to_owned(),
            nickname: None,
            address: Some("192.0.2.2:6783".parse().unwrap()),
            outbound: false,
            established: true,
        }],
        via: Some("0102030405ff".to_owned()),
        info: Some("over h3".to_owned()),
    };
    golden(
        &document,
        concat!(
            r#"{"peer_id":"abcdef010203","nickname":"h1","is_self":true,"version":4,"connections":["#,
            r#"{"peer_id":"0102030405ff","nickname":null,"address":"192.0.2.2:6783","outbound":false,"#,
            r#""established":true}],"via":"0102030405ff","info":"over h3"}"#
        ),
    );
}

#[test]
fn targets_and_macs() {
    let document = TargetDocument {
        target: "h2:6783".to_owned(),
        state: ConnectionState::Retrying,
        address: None,
        next_try_seconds: Some(1.5),
        last_error: Some("the name is not known".to_owned()),
        info: None,
    };
    golden(
        &document,
        concat!(
            r#"{"target":"h2:6783","state":"retrying","address":null,"next_try_seconds":1.5,"#,
            r#""last_error":"the name is not known","info":null}"#
        ),
    );
    let document = MacDocument {
        mac: "0a:00:00:00:00:01".to_owned(),
        peer_id: "abcdef010203".to_owned(),
        last_seen_seconds: 3,
        frozen: false,
    };
    golden(
        &document,
        r#"{"mac":"0a:00:00:00:00:01","peer_id":"abcdef010203","last_seen_seconds":3,"frozen":false}"#,
    );
}

#[test]
fn connect_and_forget() {
    golden(
        &TargetListDocument { targets: vec!["h2:6783".to_owned(), "[2001:db8::1]:7000".to_owned()] },
        r#"{"targets":["h2:6783","[2001:db8::1]:7000"]}"#,
    );
}

#[test]
fn routes() {
    let direct = UnicastDocument {
        peer_id: "0102030405ff".to_owned(),
        nickname: Some("h2".to_owned()),
        via: Some("0102030405ff".to_owned()),
        hops: Some(1),
        info: None,
    };
    let unreached = UnicastDocument {
        peer_id: "abcdef010203".to_owned(),
        nickname: None,
        via: None,
        hops: None,
        info: Some("no chain of links leads there".to_owned()),
    };
    let broadcast = BroadcastDocument {
        source: "0102030405ff".to_owned(),
        nickname: Some("h2".to_owned()),
        from: Some("0102030405ff".to_owned()),
        via: vec!["abcdef010203".to_owned()],
    };
    let group =
        GroupDocument { mac: "01:00:5e:01:01:01".to_owned(), peer_ids: vec!["abcdef010203".to_owned()] };
    golden(
        &RoutesDocument { unicast: vec![direct, unreached], broadcast: vec![broadcast], groups: vec![group] },
        concat!(
            r#"{"unicast":[{"peer_id":"0102030405ff","nickname":"h2","via":"0102030405ff","hops":1,"info":null},"#,
            r#"{"peer_id":"abcdef010203","nickname":null,"via":null,"hops":null,"info":"no chain of links leads there"}],"#,
            r#""broadcast":[{"source":"0102030405ff","nickname":"h2","from":"0102030405ff","via":["abcdef010203"]}],"groups":[{"mac":"01:00:5e:01:01:01","peer_ids":["abcdef010203"]}]}"#
        ),
    );
}
