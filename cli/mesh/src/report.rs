//! `mesh report`: all that the router tells, as one JSON document, to be attached to a question. It holds no secret, since no
//! document does.

use mesh_api::{Command, Failure, PROTOCOL_VERSION};
use serde_json::{Map, Value, json};

use crate::args::RouterArgs;
use crate::control::connect;
use crate::output;

/// Asks for every document and prints them. What one question meets does not hide the answers to others.
pub(crate) fn report(router: &RouterArgs) -> Result<(), Failure> {
    let status = connect(router)?.call_value(Command::Status)?;
    let program = json!({ "version": env!("CARGO_PKG_VERSION"), "control_protocol": PROTOCOL_VERSION });
    let mut report = Map::from_iter([("program".to_owned(), program), ("status".to_owned(), status)]);
    for (name, command) in Command::VIEWS {
        let answer = connect(router).and_then(|client| client.call_value(command));
        let document: Value = answer.unwrap_or_else(|error| json!({ "error": error.failure() }));
        report.insert(name.to_owned(), document);
    }
    output::print_json(&report)
}
