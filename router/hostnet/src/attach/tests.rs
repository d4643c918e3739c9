use std::process::Command;

use super::*;
use support::{Snapshot, bridge, error_of, new_container, new_netns, on_a_host, spec};

#[path = "../../tests/hostnet/support.rs"]
mod support;

/// The steps that an attachment of `spec` takes.
fn steps_of(bridge: &Bridge, netns: &Netns, spec: &AttachSpec) -> Vec<Step> {
    let mut steps = Vec::new();
    let watch = &mut |step| {
        steps.push(step);
        Ok(())
    };
    attach_watched(None, bridge, netns, spec, watch).unwrap();
    steps
}

/// Fails the attachment at its `number`th step.
fn fail_at(number: usize, bridge: &Bridge, netns: &Netns, spec: &AttachSpec) {
    let mut taken = 0;
    let error = error_of(attach_watched(None, bridge, netns, spec, &mut |_| {
        taken += 1;
        if taken > number { Err(HostError::NoSuchProcess { pid: 1 }) } else { Ok(()) }
    }));
    assert!(matches!(error, HostError::NoSuchProcess { pid: 1 }), "step {number}: {error}");
}

#[test]
fn a_failure_at_any_step_leaves_no_trace_of_a_first_attachment() {
    on_a_host(|| {
        let bridge = bridge();
        let spec = spec(&["10.32.0.1/12", "10.32.0.2/12", "fd00::1/64"]);
        let attached = new_netns();
        let steps = steps_of(&bridge, &attached, &spec);
        crate::detach(&bridge, &attached, &spec.ifname, &[]).unwrap();
        assert_eq!(steps.first(), Some(&Step::CreatePair));
        assert!(
            steps.contains(&Step::BringUpLoopback) && steps.contains(&Step::AddMulticastRoute),
            "{steps:?}"
        );
        let container = new_netns();
        // Having been up once leaves `lo` with a queueing discipline for good.
        for state in ["up", "down"] {
            container.run(|| support::ip(&format!("link set lo {state}"))).unwrap();
        }
        let (outside, inside) = (Snapshot::take(), container.run(Snapshot::take).unwrap());
        for number in 0..steps.len() {
            fail_at(number, &bridge, &container, &spec);
            outside.assert_restored();
            container.run(|| inside.assert_restored()).unwrap();
        }
    });
}

#[test]
fn a_failure_at_any_step_leaves_an_earlier_attachment_as_it_was() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let mut first = spec(&["10.32.0.1/12"]);
        first.multicast_route = false;
        attach(&bridge, &container, &first).unwrap();
        support::eventually("the link-local address is ready", || {
            container.run(|| !support::ip("address show dev ethmesh").contains("tentative")).unwrap()
        });
        let (outside, inside) = (Snapshot::take(), container.run(Snapshot::take).unwrap());
        let mut second = spec(&["10.32.0.1/12", "10.32.0.2/12", "fd00::1/64"]);
        second.mtu = 1300;
        for number in 0.. {
            let mut taken = 0;
            let result = attach_watched(None, &bridge, &container, &second, &mut |_| {
                taken += 1;
                if taken > number { Err(HostError::NoSuchProcess { pid: 1 }) } else { Ok(()) }
            });
            if result.is_ok() {
                assert!(number >= 6, "only {number} steps");
                break;
            }
            outside.assert_restored();
            container.run(|| inside.assert_restored()).unwrap();
        }
    });
}

#[test]
fn a_refusal_of_the_kernel_in_the_middle_leaves_no_trace() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let inside = container.run(Snapshot::take).unwrap();
        let error =
            error_of(attach_watched(None, &bridge, &container, &spec(&["10.32.0.1/12"]), &mut |step| {
                if step == Step::JoinBridge {
                    assert!(Command::new("ip").args(["link", "delete", "mesh0"]).status().unwrap().success());
                }
                Ok(())
            }));
        assert!(
            matches!(&error, HostError::Kernel { source, .. } if source.error.raw_os_error().is_some()),
            "{error}"
        );
        assert_eq!(support::ip_json("link").as_array().unwrap().len(), 1);
        container.run(|| inside.assert_restored()).unwrap();
    });
}

#[test]
fn an_address_that_appears_meanwhile_is_refused_without_a_trace() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let outside = Snapshot::take();
        let mut inside = None;
        let error =
            error_of(attach_watched(None, &bridge, &container, &spec(&["10.32.0.1/12"]), &mut |step| {
                if step == Step::AddAddresses {
                    container.run(|| support::ip("address add 10.32.0.1/12 dev ethmesh")).unwrap();
                }
                if step == Step::CreatePair {
                    inside = Some(container.run(Snapshot::take).unwrap());
                }
                Ok(())
            }));
        assert!(matches!(error, HostError::Kernel { .. }), "{error}");
        outside.assert_restored();
        container.run(|| inside.unwrap().assert_restored()).unwrap();
    });
}
