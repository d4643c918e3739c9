//! Naming, opening and entering namespaces.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use mesh_hostnet::{HostError, Netns, NetnsRef, attach};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::support::{
    addresses, bridge, error_of, eventually, has_link, ip, new_netns, on_a_host, run, spec,
};

/// A process of its own namespace, ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        // SAFETY: between fork and exec only one system call is made, which touches no memory.
        unsafe { command.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWNET)?)) };
        Self(command.arg("60").stdout(Stdio::null()).spawn().unwrap())
    }

    fn netns(&self) -> NetnsRef {
        NetnsRef::Pid(self.0.id())
    }

    fn end(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn opens_the_namespace_of_a_process() {
    let sleeper = Sleeper::start();
    let netns = Netns::open(&sleeper.netns()).unwrap();
    assert_ne!(netns.id(), Netns::current().unwrap().id());
    assert_eq!(netns.run(|| Netns::current().unwrap().id()).unwrap(), netns.id());
}

#[test]
fn opens_a_namespace_by_the_path_of_its_file() {
    let sleeper = Sleeper::start();
    let path = NetnsRef::Path(format!("/proc/{}/ns/net", sleeper.0.id()).into());
    assert_eq!(Netns::open(&path).unwrap().id(), Netns::open(&sleeper.netns()).unwrap().id());
}

#[test]
fn opens_a_namespace_by_name() {
    in_a_private_run(|| {
        ip("netns add c1");
        let netns = Netns::open(&"netns:c1".parse().unwrap()).unwrap();
        assert!(netns.run(|| has_link("lo")).unwrap());
        ip("netns delete c1");
        assert!(matches!(
            error_of(Netns::open(&"netns:c1".parse().unwrap())),
            HostError::NamespaceNotFound { .. }
        ));
    });
}

#[test]
fn refuses_a_name_whose_namespace_is_no_longer_mounted() {
    in_a_private_run(|| {
        std::fs::create_dir("/run/netns").unwrap();
        std::fs::write("/run/netns/stale", "").unwrap();
        assert!(matches!(
            error_of(Netns::open(&"netns:stale".parse().unwrap())),
            HostError::NotANamespace { .. }
        ));
    });
}

#[test]
fn refuses_what_does_not_exist() {
    let missing = NetnsRef::Path("/proc/self/ns/missing".into());
    assert!(matches!(error_of(Netns::open(&missing)), HostError::NamespaceNotFound { .. }));
    let missing = NetnsRef::Name("mesh-test-there-is-no-such-name".to_owned());
    assert!(matches!(error_of(Netns::open(&missing)), HostError::NamespaceNotFound { .. }));
}

#[test]
fn refuses_files_that_are_no_network_namespace() {
    for path in
        ["/proc/self/ns/mnt", "/proc/self/ns/user", "/proc/self/status", "/dev/null", "/proc", "/etc/passwd"]
    {
        let error = error_of(Netns::open(&NetnsRef::Path(path.into())));
        assert!(matches!(error, HostError::NotANamespace { .. }), "{path}: {error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn refuses_the_pid_of_a_process_that_has_ended() {
    let mut child = Command::new("true").spawn().unwrap();
    let netns = NetnsRef::Pid(child.id());
    // Until its parent has waited, an ended process keeps its number.
    eventually("the process is known to have ended", || {
        matches!(Netns::open(&netns), Err(HostError::NoSuchProcess { .. }))
    });
    child.wait().unwrap();
    let error = error_of(Netns::open(&netns));
    assert!(matches!(error, HostError::NoSuchProcess { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_container_that_vanishes_while_it_is_attached_leaves_nothing_behind() {
    on_a_host(|| {
        let bridge = bridge();
        let mut sleeper = Sleeper::start();
        let netns = Netns::open(&sleeper.netns()).unwrap();
        sleeper.end();
        // The open file keeps the namespace, so the call goes on as if the container had ended just after it.
        let host_end = attach(&bridge, &netns, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        assert_eq!(netns.run(|| addresses("ethmesh")).unwrap(), ["10.32.0.1/12"]);
        drop(netns);
        eventually("the host end is gone", || !has_link(host_end.as_str()));
    });
}

#[test]
fn a_panic_inside_goes_on_outside() {
    let netns = new_netns();
    let result = thread::spawn(move || netns.run(|| panic!("inside"))).join();
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn the_caller_stays_where_it_was() {
    on_a_host(|| {
        let here = Netns::current().unwrap().id();
        new_netns().run(|| ()).unwrap();
        assert_eq!(Netns::current().unwrap().id(), here);
    });
}

/// Runs `test` with an empty /run, and a namespace, that nobody else sees.
fn in_a_private_run(test: impl FnOnce() + Send + 'static) {
    let private = || {
        // SAFETY: without `FILES`, nothing is unshared that another thread could notice.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET) }.unwrap();
        for command in ["mount --make-rprivate /", "mount -t tmpfs tmpfs /run"] {
            assert!(run(command).status.success(), "{command}");
        }
        test();
    };
    thread::spawn(private).join().unwrap();
}
