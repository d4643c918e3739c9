use super::*;

const PORTS: Ports = Ports { bridge: 1, tunnel: 2 };
const MAC: MacAddr = MacAddr::from_bytes([2, 1, 2, 3, 4, 5]);

fn out(remote: &str) -> Flow {
    let remote = remote.parse().unwrap();
    Flow::Out { mac: MAC, tunnel: Tunnel { remote, port: 4789, vni: 0x2a } }
}

/// Bytes of an attribute, as `ovs-dpctl` sends them: length, type and value, filled up.
fn raw(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn a_flow_into_a_tunnel_has_the_bytes_that_ovs_dpctl_sends() {
    let Request { command, header, attributes } = put_flow(8, PORTS, &out("10.99.0.2"), None);
    assert_eq!((command, header), (1, Some(8)));
    let tunnel = [
        raw(0, &[0, 0, 0, 0, 0, 0, 0, 0x2a]),
        raw(2, &[0x0a, 0x63, 0, 2]),
        raw(4, &[0x40]),
        raw(6, &[]),
        raw(10, &[0x12, 0xb5]),
    ];
    let wanted = [
        raw(9, b"out \x02\x01\x02\x03\x04\x05"),
        raw(1, &[raw(3, &[1, 0, 0, 0]), raw(4, &[0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4, 5])].concat()),
        raw(7, &[raw(3, &[0xff; 4]), raw(4, &[[0; 6], [0xff; 6]].concat())].concat()),
        raw(2, &[raw(3, &raw(16, &tunnel.concat())), raw(1, &[2, 0, 0, 0])].concat()),
    ];
    assert_eq!(attributes.as_bytes(), wanted.concat());
}

#[test]
fn a_flow_out_of_a_tunnel_looks_at_sender_and_identifier_alone() {
    let flow = Flow::In { remote: "10.99.0.2".parse().unwrap(), vni: 0x2a };
    let Request { attributes, .. } = put_flow(8, PORTS, &flow, None);
    let id = [0, 0, 0, 0, 0, 0, 0, 0x2a];
    let address = [0x0a, 0x63, 0, 2];
    let key = [raw(0, &id), raw(1, &address), raw(2, &address), raw(4, &[0])];
    let mask = [raw(0, &[0xff; 8]), raw(1, &[0xff; 4]), raw(4, &[0])];
    let wanted = [
        raw(9, &[&[0; 10][..], &[0xff, 0xff], &address].concat()),
        raw(1, &[raw(3, &[2, 0, 0, 0]), raw(16, &key.concat()), raw(4, &[0; 12])].concat()),
        raw(7, &[raw(3, &[0xff; 4]), raw(16, &mask.concat()), raw(4, &[0; 12])].concat()),
        raw(2, &raw(1, &[1, 0, 0, 0])),
    ];
    assert_eq!(attributes.as_bytes(), wanted.concat());
    // The address that a router listens on alone counts, too.
    let Request { attributes, .. } = put_flow(8, PORTS, &flow, Some("10.99.0.1".parse().unwrap()));
    let tunnel = attribute(attribute(attributes.as_bytes(), FLOW_ATTR_MASK).unwrap(), KEY_ATTR_TUNNEL);
    assert_eq!(attribute(tunnel.unwrap(), TUNNEL_KEY_ATTR_IPV4_DST), Some(&[0xff; 4][..]));
}

#[test]
fn flows_of_both_families_are_read_as_they_were_written() {
    for remote in ["10.99.0.2", "fd00::2"] {
        for flow in [out(remote), Flow::In { remote: remote.parse().unwrap(), vni: 7 }] {
            let mut attributes = put_flow(8, PORTS, &flow, None).attributes;
            attributes = attributes.with(FLOW_ATTR_STATS, &[5_u64, 600].map(u64::to_ne_bytes).concat());
            let found = read_flow(8, PORTS, attributes.as_bytes());
            assert_eq!(found, Found::Whole(FoundFlow { flow, passed: (5, 600) }), "{remote}");
        }
    }
}

#[test]
fn flows_of_other_ports_and_of_others_are_told_apart() {
    let before = Ports { bridge: 3, tunnel: 2 };
    let stale = put_flow(8, before, &out("10.99.0.2"), None).attributes;
    assert_eq!(read_flow(8, PORTS, stale.as_bytes()), Found::Other(MAC));
    let stale = put_flow(8, before, &Flow::In { remote: "10.99.0.2".parse().unwrap(), vni: 7 }, None);
    let Found::Foreign(removal) = read_flow(8, PORTS, stale.attributes.as_bytes()) else { panic!() };
    assert_eq!((removal.command, removal.header), (2, Some(8)));
    let unnamed = Attributes::default().with(FLOW_ATTR_KEY, b"a key of somebody's");
    let Found::Foreign(removal) = read_flow(8, PORTS, unnamed.as_bytes()) else { panic!() };
    assert_eq!(removal.attributes, unnamed);
}

#[test]
fn ports_are_asked_for_and_read_with_their_kinds() {
    let wanted = [
        raw(3, b"vx0\0"),
        raw(2, &[4, 0, 0, 0]),
        raw(5, &77_u32.to_ne_bytes()),
        raw(4, &raw(1, &4789_u16.to_ne_bytes())),
    ];
    let Request { attributes, .. } = new_port(8, "vx0", Kind::Vxlan(4789), 77);
    assert_eq!(attributes.as_bytes(), wanted.concat());
    let stats = [1_u64, 2, 3, 4].map(u64::to_ne_bytes).concat();
    let told = attributes.with(1, &[2, 0, 0, 0]).with(6, &stats);
    let port = Port { number: 2, kind: Some(Kind::Vxlan(4789)), listener: 77, passed: [(2, 4), (1, 3)] };
    assert_eq!(read_port(told.as_bytes()), Some(port));
}

#[test]
fn an_upcall_tells_where_its_frame_came_from_and_goes_to() {
    let tunnel = [raw(0, &[0, 0, 0, 0, 0, 0, 0, 7]), raw(12, &[0xfd; 16]), raw(13, &[0xfe; 16])];
    let ethernet = [9, 9, 9, 9, 9, 9, 2, 1, 2, 3, 4, 5];
    let key =
        [raw(3, &[2, 0, 0, 0]), raw(0x8000 | 16, &tunnel.concat()), raw(4, &ethernet), raw(5, &[0x20, 1])];
    let body = [8_u32.to_ne_bytes().to_vec(), raw(1, b"frame"), raw(2, &key.concat())].concat();
    let missed = read_upcall(1, &body).unwrap();
    assert_eq!((missed.frame, missed.port, missed.to), (&b"frame"[..], 2, MAC));
    assert!(missed.is_tagged);
    assert_eq!(missed.tunnel, Some((7, IpAddr::from([0xfd; 16]))));
    assert_eq!(read_upcall(2, &body), None, "what an action has sent up");
    for len in 0..body.len() {
        // Nothing that is cut short breaks the reader.
        let _read = read_upcall(1, &body[..len]);
    }
}
