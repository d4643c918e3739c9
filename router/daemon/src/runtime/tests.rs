use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

const ID: &str = "5c4fb8f2335baa606f583429e44b7fd24ad0c83c0cfdc6e59d1d9ffc707cdcfe";

fn container(config: &Value) -> Value {
    json!({
        "Id": ID, "Name": "/web", "Config": config,
        "State": {"Running": true, "Pid": 4711, "StartedAt": "2026-11-23T07:01:36.290583465Z"},
    })
}

fn names(config: &Value) -> Vec<String> {
    inspected(&container(config)).expect("a container").names
}

#[test]
fn a_container_is_called_as_its_label_says_or_by_its_name_and_its_host_name() {
    let short = &ID[..12];
    assert_eq!(names(&json!({"Hostname": short, "Domainname": "", "Labels": null})), ["web"]);
    assert_eq!(names(&json!({"Hostname": "db", "Domainname": ""})), ["web", "db"]);
    assert_eq!(names(&json!({"Hostname": "db", "Domainname": "example.org"})), ["web", "db.example.org"]);
    let label = json!({"Hostname": "db", "Labels": {"mesh.name": "a, b.mesh.internal  c;d"}});
    assert_eq!(names(&label), ["a", "b.mesh.internal"]);
}

#[test]
fn a_container_runs_when_it_has_a_process() {
    let mut value = container(&json!({}));
    let running = inspected(&value).expect("a container");
    assert!(matches!(running.life, Life::Running { pid: 4711, .. }), "{running:?}");
    value["State"] = json!({"Running": false, "Pid": 0});
    assert_eq!(inspected(&value).map(|container| container.life), Some(Life::Stopped));
    for broken in
        [json!({"Id": "../etc", "State": {"Running": true}}), json!({"Id": ID}), json!([]), json!(null)]
    {
        assert_eq!(inspected(&broken), None, "{broken}");
    }
}

#[test]
fn what_happens_inside_a_container_is_no_sign() {
    let event =
        |action: &str| format!(r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{ID}"}}}}"#);
    for action in ["start", "die", "destroy", "rename"] {
        assert_eq!(container_of_event(event(action).as_bytes()).as_deref(), Some(ID), "{action}");
    }
    for action in ["exec_start: sh", "health_status: healthy", "top", "resize"] {
        assert_eq!(container_of_event(event(action).as_bytes()), None, "{action}");
    }
    for garbage in ["", "{", "[]", r#"{"Action":"die","Actor":{"ID":"x/y"}}"#] {
        assert_eq!(container_of_event(garbage.as_bytes()), None, "{garbage}");
    }
}

/// A runtime that gives each of these answers to one connection, and then closes it.
fn runtime_that_answers(dir: &Path, answers: Vec<Vec<u8>>) -> Engine {
    let socket = dir.join("docker.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _client) = listener.accept().await.expect("a client");
            let mut head = [0; 4096];
            let _length = stream.read(&mut head).await.expect("a request");
            stream.write_all(&answer).await.expect("written");
        }
    });
    Engine { runtime: Runtime::Docker, socket }
}

fn chunked(chunks: &[&str]) -> Vec<u8> {
    let chunks = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    let body: String = chunks.collect();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_stream_of_events_is_read_line_by_line_wherever_it_is_cut() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let event = |id: &str| format!("{{\"Action\":\"start\",\"Actor\":{{\"ID\":\"{id}\"}}}}\n");
    let (first, second) = (event("aa"), event("bb"));
    let long = format!("{}\n", "x".repeat(200_000));
    let (head, tail) = second.split_at(9);
    let answer = chunked(&[&first, "garbage\n", &long, head, tail]);
    let engine = runtime_that_answers(dir.path(), vec![answer]);
    let mut events = engine.events().await.expect("a stream");
    for id in ["aa", "bb"] {
        assert_eq!(events.next().await, Some(Sign::Of(Runtime::Docker, id.to_owned())));
    }
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_runtime_that_is_absent_or_answers_nonsense_is_told_apart_from_one_without_the_container() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let absent = Engine { runtime: Runtime::Docker, socket: dir.path().join("none.sock") };
    let error = absent.inspect("web").await.expect_err("absent");
    assert!(matches!(error, EngineError::Absent { .. }), "{error}");
    assert!(error.failure().hint.expect("a hint").contains("--docker-socket"));
    let answers = [
        &b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"[..],
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"\0\0\0\0 nonsense\r\n\r\n",
    ];
    let engine = runtime_that_answers(dir.path(), answers.map(<[u8]>::to_vec).to_vec());
    assert_eq!(engine.inspect("web").await.expect("an answer"), None);
    assert!(matches!(engine.inspect("web").await, Err(EngineError::Status { status: 500, .. })));
    assert!(matches!(engine.inspect("web").await, Err(EngineError::Garbled { .. })));
    for _ in 0..3 {
        assert!(matches!(engine.inspect("web").await, Err(EngineError::Broken { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_accepts_and_never_answers_is_given_up() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let engine = Engine { runtime: Runtime::Docker, socket };
    assert!(matches!(engine.inspect("web").await, Err(EngineError::Late { .. })));
    assert!(matches!(engine.events().await.map(|_| ()), Err(EngineError::Late { .. })));
}
