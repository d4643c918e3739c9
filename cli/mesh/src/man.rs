//! `mesh man DIR`: the manual pages, made from the grammar, so that they say what `--help` says.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use mesh_api::{ErrorKind, Failure};
use serde_json::json;

use crate::args::Output;
use crate::{output, usage};

/// Writes a page for `mesh` and one for each of its commands, and prints their names.
pub(crate) fn man(directory: &Path, output: Output) -> Result<(), Failure> {
    let mut grammar = usage::without_hidden_options();
    grammar.build();
    let failed = |error: io::Error| {
        Failure::new(ErrorKind::Internal, format!("cannot write to {}: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let mut pages = Vec::new();
    write(&grammar, "mesh", directory, &mut pages).map_err(failed)?;
    match output {
        Output::Human => output::print(&pages.iter().map(|page| format!("{page}\n")).collect::<String>()),
        Output::Json => output::print_json(&json!({ "directory": directory, "pages": pages })),
    }
}

/// Writes the page of one command, and of those below it.
fn write(command: &Command, name: &str, directory: &Path, pages: &mut Vec<String>) -> io::Result<()> {
    let page = format!("{name}.1");
    let mut text = Vec::new();
    Man::new(command.clone()).title(name.to_uppercase()).render(&mut text)?;
    fs::write(directory.join(&page), text)?;
    pages.push(page);
    for below in command.get_subcommands() {
        write(below, &format!("{name}-{}", below.get_name()), directory, pages)?;
    }
    Ok(())
}
