use std::fs;

use tokio::sync::mpsc;

use super::*;

struct Fixture {
    names: Names,
    told: mpsc::Receiver<(Input, Option<crate::pipe::Pipe>)>,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (inputs, told) = mpsc::channel(16);
        let path = dir.path().join("names");
        let added = load(&path).expect("none yet");
        let domain = "mesh.internal.".parse().expect("a name");
        Self { names: Names::new(domain, path, added, inputs), told, dir }
    }

    /// What the node was told last, as `container: name address ...`.
    fn last_told(&mut self) -> String {
        let mut last = String::new();
        while let Ok((Input::Names { container, entries }, None)) = self.told.try_recv() {
            let shown: Vec<_> = entries.iter().map(shown).collect();
            last = format!("{container}: {}", shown.join(", "));
        }
        last
    }

    fn file(&self) -> String {
        fs::read_to_string(self.dir.path().join("names")).unwrap_or_default()
    }

    fn complete(&self, texts: &[&str]) -> BTreeSet<Given> {
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        self.names.complete(&texts).expect("names")
    }

    async fn add(&self, name: &str, addresses: &[&str]) -> Result<DnsNameDocument, Failure> {
        self.names.add(name, &parsed(addresses), None).await
    }
}

fn shown(entry: &Entry) -> String {
    let port = entry.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{} {}{port}", entry.name(), entry.address())
}

fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().expect("an address")).collect()
}

#[test]
fn a_label_lies_in_the_domain_and_other_names_have_to() {
    let fixture = Fixture::new();
    let shown: Vec<_> =
        fixture.complete(&["web", "A.b.mesh.internal"]).iter().map(Given::to_string).collect();
    assert_eq!(shown, ["a.b.mesh.internal.", "web.mesh.internal."]);
    for wrong in ["web.example.com", "mesh.internal", "web.", "", "a b", "-a", "a..mesh.internal", "a:0"] {
        let failure = fixture.names.complete(&[wrong.to_owned()]).expect_err(wrong);
        assert_eq!(failure.kind, ErrorKind::Invalid, "{wrong}");
        assert!(failure.hint.is_some());
    }
}

#[tokio::test]
async fn a_container_bears_what_was_said_last() {
    let mut fixture = Fixture::new();
    let (c1, web) = ("netns:c1", fixture.complete(&["web", "www"]));
    let names = fixture.names.set(c1, web.clone(), parsed(&["10.32.0.1"])).await.expect("room");
    assert_eq!(names, ["web.mesh.internal.", "www.mesh.internal."]);
    assert_eq!(fixture.last_told(), "netns:c1: web.mesh.internal. 10.32.0.1, www.mesh.internal. 10.32.0.1");
    assert_eq!(fixture.names.of(c1).await, web);
    fixture.names.set(c1, web, []).await.expect("room");
    assert_eq!(fixture.last_told(), "netns:c1: ", "a container that is not there has no address");
    fixture.names.remove(c1).await.expect("removed");
    assert_eq!(fixture.names.of(c1).await, BTreeSet::new());
    assert_eq!(fixture.file(), "", "names of containers are kept elsewhere");
}

#[tokio::test]
async fn what_the_user_adds_is_on_disk_before_anybody_hears_of_it_and_there_in_the_next_life() {
    let mut fixture = Fixture::new();
    let added = fixture.add("db", &["192.0.2.9", "192.0.2.8", "2001:db8::1"]).await.expect("added");
    assert_eq!(added.name, "db.mesh.internal.");
    assert_eq!(added.addresses.len(), 3);
    let file = fixture.file();
    assert!(file.contains("db.mesh.internal. 192.0.2.9\n") && file.ends_with("# end\n"), "{file}");
    assert!(fixture.last_told().starts_with("external: db.mesh.internal. 192.0.2.8, "));

    let again = load(&fixture.dir.path().join("names")).expect("whole");
    assert_eq!(again, fixture.names.finish().await.added);

    let removed = fixture.names.try_take_back("db", &parsed(&["192.0.2.9"])).await.expect("there");
    assert_eq!(removed.addresses, parsed(&["192.0.2.9"]));
    for (name, at) in [("db", &["192.0.2.9"][..]), ("nothing", &[])] {
        let failure = fixture.names.try_take_back(name, &parsed(at)).await.expect_err("unknown");
        assert_eq!(failure.kind, ErrorKind::Unknown);
    }
    fixture.names.try_take_back("db", &[]).await.expect("there");
    assert_eq!(fixture.last_told(), "external: ");
}

#[tokio::test]
async fn a_name_added_to_a_container_follows_its_addresses_until_it_is_detached() {
    let mut fixture = Fixture::new();
    let document = fixture.names.add("alias", &[], Some("netns:c1")).await.expect("added before it is there");
    assert!(document.addresses.is_empty());
    let all = fixture.names.set("netns:c1", fixture.complete(&["web"]), parsed(&["10.32.0.7"])).await;
    assert_eq!(all.expect("room"), ["alias.mesh.internal.", "web.mesh.internal."]);
    assert_eq!(fixture.last_told(), "netns:c1: web.mesh.internal. 10.32.0.7, alias.mesh.internal. 10.32.0.7");
    assert!(fixture.file().contains("alias.mesh.internal. container netns:c1\n"));
    fixture.names.remove("netns:c1").await.expect("removed");
    assert!(!fixture.file().contains("alias"));
}

#[tokio::test]
async fn a_name_has_the_ports_that_it_was_given_wherever_it_was_given() {
    let mut fixture = Fixture::new();
    let names = fixture.complete(&["web", "web:80", "web:8080", "plain"]);
    let told = fixture.names.set("netns:c1", names, parsed(&["10.32.0.7"])).await.expect("room");
    assert_eq!(told, ["plain.mesh.internal.", "web.mesh.internal."], "names have no ports");
    let at = |port| format!("web.mesh.internal. 10.32.0.7:{port}");
    assert_eq!(
        fixture.last_told(),
        format!("netns:c1: {}, {}, plain.mesh.internal. 10.32.0.7", at(80), at(8080)),
        "a name with a port does not stand there without one"
    );

    for port in ["5432", "5433"] {
        let added = fixture.add(&format!("db:{port}"), &["192.0.2.9"]).await.expect("added");
        assert_eq!((added.name.as_str(), added.addresses.len()), ("db.mesh.internal.", 1));
    }
    assert!(fixture.file().contains("db.mesh.internal.:5432 192.0.2.9\n"), "{}", fixture.file());
    let again = load(&fixture.dir.path().join("names")).expect("whole");
    assert_eq!(again, fixture.names.finish().await.added);

    fixture.names.try_take_back("db:5432", &[]).await.expect("there");
    assert_eq!(fixture.last_told(), "external: db.mesh.internal. 192.0.2.9:5433");
    fixture.names.try_take_back("db:5432", &[]).await.expect_err("no longer there");
    fixture.names.try_take_back("db", &[]).await.expect("at any port");
    assert_eq!(fixture.last_told(), "external: ");
}

#[tokio::test]
async fn what_cannot_be_written_or_is_too_much_does_not_happen() {
    let mut fixture = Fixture::new();
    let many: Vec<IpAddr> =
        (0..=SAME_NAME_MAX).map(|n| IpAddr::from([10, 0, 0, u8::try_from(n).expect("few")])).collect();
    let failure = fixture.names.add("many", &many, None).await.expect_err("too many");
    assert_eq!(failure.kind, ErrorKind::Refused);
    fixture.add("db", &["192.0.2.9"]).await.expect("added");
    fixture.last_told();
    fs::remove_dir_all(fixture.dir.path()).expect("removed");
    fixture.add("web", &["192.0.2.1"]).await.expect_err("nowhere to write");
    assert_eq!(fixture.last_told(), "");
    assert_eq!(fixture.names.finish().await.added.len(), 1);
}

#[test]
fn a_damaged_file_is_refused_with_its_line_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("names");
    for (text, wrong) in [
        ("", 1),
        ("# mesh names, version 2\n# end\n", 1),
        ("# mesh names, version 1\n", 2),
        ("# mesh names, version 1\na.mesh.internal. 10.0.0\n# end\n", 2),
        ("# mesh names, version 1\na.mesh.internal. 10.0.0.1\nb.mesh.internal. container\n# end\n", 3),
        ("# mesh names, version 1\na.mesh.internal. 10.0.0.1\n", 3),
        ("# mesh names, version 1\na.mesh.internal.:http 10.0.0.1\n# end\n", 2),
    ] {
        fs::write(&path, text).expect("written");
        let error = load(&path).expect_err(text);
        assert!(matches!(error, Error::NamesDamaged { line, .. } if line == wrong), "{text:?}: {error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), text);
    }
}
