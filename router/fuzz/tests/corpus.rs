//! Every input that was worth keeping, and mutations of it, through its target.

use mesh_crypto::Rng;
use mesh_fuzz::{TARGETS, corpus};

/// Mutations of each input, fewer the more inputs there are: what is new is found by `cargo xtask fuzz`.
const MUTATIONS: usize = 2_000;

#[test]
fn no_target_panics_on_what_was_found_before_or_on_anything_like_it() {
    for (name, run) in TARGETS {
        let inputs = corpus::load(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        let mut rng = Rng::from_seed([5; 32]);
        for input in &inputs {
            run(input);
            for _ in 0..MUTATIONS / inputs.len() {
                run(&mutation(input, &mut rng));
            }
        }
    }
}

fn mutation(input: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(4) {
        let len = bytes.len() as u64 + 1;
        let at = usize::try_from(rng.below(len)).expect("a length");
        match rng.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u32() as u8),
            2 => bytes.extend_from_within(at..),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if rng.below(2) == 0 { rng.u32() as u8 } else { *byte ^ (1 << rng.below(8)) };
                }
            }
        }
    }
    bytes.truncate(16 * 1024);
    bytes
}
