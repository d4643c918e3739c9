//! `mesh secret`: secrets for networks. Asks no router.

use mesh_api::Failure;
use serde_json::json;

use crate::args::Output;
use crate::{launch, output};

/// Prints a new secret.
pub(crate) fn generate(output: Output) -> Result<(), Failure> {
    let secret = mesh_daemon::generate_secret().map_err(|error| launch::failure(&error))?;
    match output {
        Output::Human => output::print(&format!("{}\n", *secret)),
        Output::Json => output::print_json(&json!({ "secret": *secret })),
    }
}
