use std::fs;

use super::*;

fn key(identity: &str, ifname: &str) -> Key {
    Key { identity: identity.parse().expect("an identity"), ifname: ifname.to_owned() }
}

fn record(shown: &str) -> Record {
    Record {
        process: None,
        shown: shown.to_owned(),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        addresses: ["10.32.0.1/12", "fd00::1/64"].map(|text| text.parse().expect("an address")).into(),
        names: vec!["web.mesh.internal".to_owned(), "w".to_owned()],
        multicast_route: true,
        dns: true,
    }
}

fn bare(shown: &str) -> Record {
    let process = Some(Process { pid: 7, started: 4711 });
    Record {
        process,
        addresses: Vec::new(),
        names: Vec::new(),
        multicast_route: false,
        dns: false,
        ..record(shown)
    }
}

#[tokio::test]
async fn what_is_wanted_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("attachments");
    let registry = Registry::load(path.clone()).expect("a missing file is an empty list");
    let wanted = [
        (key("docker:4f2a7be310aa", "ethmesh"), record("docker:web")),
        (key("netns:/run/a b/c", "eth1"), record("netns:/run/a b/c")),
        (key("net:4:4026532177", "ethmesh"), bare("pid:7")),
    ];
    for (key, record) in &wanted {
        registry.put(key, Some(record.clone())).await.expect("written");
    }
    registry.put(&wanted[0].0, None).await.expect("written");
    let again = Registry::load(path).expect("a whole list");
    assert_eq!(again.get(&wanted[0].0).map(|entry| entry.record), None);
    for (key, record) in &wanted[1..] {
        let entry = again.get(key).expect("it was wanted");
        assert_eq!(&entry.record, record);
        assert!(matches!(entry.presence, Presence::Unknown { .. }));
    }
}

#[tokio::test]
async fn changes_that_come_at_once_are_all_on_disk_when_they_are_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("attachments");
    let registry = Registry::load(path.clone()).expect("an empty list");
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..50 {
        let (registry, path) = (registry.clone(), path.clone());
        puts.spawn(async move {
            let key = key(&format!("netns:c{number}"), "ethmesh");
            registry.put(&key, Some(record("c"))).await.expect("written");
            let on_disk = load(&path).expect("a whole list");
            assert!(on_disk.contains_key(&key), "c{number} was acknowledged too early");
        });
    }
    while let Some(put) = puts.join_next().await {
        put.expect("no panic");
    }
    assert_eq!(load(&path).expect("a whole list").len(), 50);
}

#[tokio::test]
async fn what_cannot_be_written_does_not_happen() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = dir.path().join("state");
    fs::create_dir(&state).expect("a directory");
    let registry = Registry::load(state.join("attachments")).expect("an empty list");
    let (one, other) = (key("netns:c1", "ethmesh"), key("netns:c2", "ethmesh"));
    registry.put(&one, Some(record("c1"))).await.expect("written");
    fs::remove_dir_all(&state).expect("removed");
    assert!(registry.put(&other, Some(record("c2"))).await.is_err());
    assert!(registry.put(&one, None).await.is_err());
    assert!(registry.get(&other).is_none() && registry.get(&one).is_some());
    fs::create_dir(&state).expect("a directory");
    registry.put(&other, Some(record("c2"))).await.expect("written");
    assert_eq!(load(&state.join("attachments")).expect("a whole list").len(), 2);
}

#[test]
fn a_damaged_list_is_refused_with_its_line_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("attachments");
    let line = line_of(&key("netns:c1", "ethmesh"), &record("netns:c1"));
    let file = |lines: &str| format!("{FIRST_LINE}\n{lines}{LAST_LINE}\n");
    fs::write(&path, file(&format!("{line}\n"))).expect("writable");
    assert_eq!(load(&path).expect("a whole list").len(), 1);
    let second = line.replace("c1", "c2");
    for (lines, expected) in [
        (String::new(), 1),
        (format!("{FIRST_LINE}\n{line}\n"), 3),
        (file(&format!("{line}\n{line}\n")), 3),
        (file(&format!("{line}\n\n")), 3),
        (file(&format!("{second}\n{}\n", line.replace('\t', " "))), 3),
        (file(&format!("{}\n", line.replace("02:00", "02:0"))), 2),
        (file(&format!("{}\n", line.replace("10.32.0.1/12", "10.32.0.1"))), 2),
        (file(&format!("{}\n", line.replace("netns:c1", "c1"))), 2),
        (file(&format!("{}\n", line.replace("ethmesh", "eth mesh"))), 2),
        (file(&format!("{}\n", line.replace("multicast", "broadcast"))), 2),
    ] {
        fs::write(&path, &lines).expect("writable");
        match load(&path) {
            Err(Error::AttachmentsDamaged { line, .. }) => assert_eq!(line, expected, "{lines}"),
            other => panic!("{lines}: {other:?}"),
        }
        assert_eq!(fs::read_to_string(&path).expect("the file"), lines);
    }
}
