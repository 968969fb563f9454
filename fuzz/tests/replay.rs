//! Seeds, past findings and simple mutations of them, on any toolchain.
#![expect(clippy::disallowed_methods, reason = "the number of mutations comes from outside")]

use evenkeel_base::Rng;
use evenkeel_fuzz::{TARGETS, seeds};

/// Mutations per target; `FUZZ_MUTATIONS` asks for more.
const MUTATIONS: u64 = 300;

#[test]
fn seeds_regressions_and_their_mutations_are_answered() {
    let mutations = std::env::var("FUZZ_MUTATIONS").ok().and_then(|n| n.parse().ok());
    for target in &TARGETS {
        let seeds = seeds::of(target.name);
        assert!(seeds.len() >= 5, "{} has {} seeds", target.name, seeds.len());
        for seed in &seeds {
            run(target.run, target.name, seed);
        }
        let mut rng = Rng::new(7).child(target.name);
        for _ in 0..mutations.unwrap_or(MUTATIONS) {
            run(target.run, target.name, &mutated(&seeds, &mut rng));
        }
    }
}

fn run(target: fn(&[u8]), name: &str, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| target(input));
    assert!(outcome.is_ok(), "{name} fails with {:?}", String::from_utf8_lossy(input));
}

/// A seed with a few pieces cut out, doubled, or taken from another one.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut below = |n: usize| {
        usize::try_from(rng.below(u64::try_from(n.max(1)).unwrap_or(1))).unwrap_or_default()
    };
    let mut input = seeds[below(seeds.len())].clone();
    for _ in 0..1 + below(4) {
        let at = below(input.len() + 1);
        let end = (at + below(12)).min(input.len());
        let other = &seeds[below(seeds.len())];
        let from = below(other.len());
        let piece = match below(4) {
            0 => Vec::new(),
            1 => input[at..end].repeat(2),
            2 => other[from..(from + below(24)).min(other.len())].to_vec(),
            _ => b"\0{}[]()\"'\\-0918446744073709551616e309"[below(16)..16 + below(20)].to_vec(),
        };
        input.splice(at..end, piece);
    }
    input
}
