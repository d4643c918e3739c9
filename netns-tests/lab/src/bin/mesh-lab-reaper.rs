//! The watcher of a lab; see the library's module `reaper`. Started by the lab, never by hand.

#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    mesh_lab::reaper::main(std::env::args())
}
