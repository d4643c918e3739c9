//! The fuzzer: libFuzzer over the target that `MESH_FUZZ_TARGET` names. `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("MESH_FUZZ_TARGET").unwrap_or_default();
    mesh_fuzz::target(&name).unwrap_or_else(|| {
        let known: Vec<_> = mesh_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
        panic!("MESH_FUZZ_TARGET is none of {}", known.join(", "))
    })
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
