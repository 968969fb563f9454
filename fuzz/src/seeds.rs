//! Where inputs begin: `seeds/TARGET/*`, `regressions/TARGET/*`, and the repository's own fixtures,
//! which are read where they lie.

use evenkeel_base::Rng;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest input that is worth a fuzzer's time.
const BYTES_MAX: usize = 4096;
/// Queries taken from the conformance scripts, evenly spread.
const QUERIES_MAX: usize = 400;

/// The seeds of a target, without duplicates, in a fixed order.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for own in ["seeds", "regressions"] {
        out.extend(files(&here().join(own).join(target)));
    }
    let crates = here().join("../crates");
    match target {
        "promql" => {
            // One query per line.
            out = out.iter().flat_map(|file| lines(file)).collect();
            out.extend(queries(&crates));
        }
        "rules" => out.extend(scripts(&crates)),
        "slo" => out.extend(files(&crates.join("evenkeel-slo/tests/fixtures"))),
        "manifests" => {
            out.extend(files(&crates.join("evenkeel-api/tests/eksctl")));
        }
        "budget" => out.extend(events()),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    out.retain(|seed| !seed.is_empty() && seed.len() <= BYTES_MAX && seen.insert(seed.clone()));
    out
}

/// Writes a target's seeds into the folder that `FUZZ_SEEDS` names, if it names one: libFuzzer
/// reads them from there.
pub fn write(target: &str) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).expect("the seeds' folder can be made");
    for (i, seed) in of(target).into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{i:04}")), seed).expect("a seed can be written");
    }
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, sorted by path.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

fn lines(file: &[u8]) -> Vec<Vec<u8>> {
    file.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

/// The queries of Prometheus' test scripts.
fn queries(crates: &Path) -> Vec<Vec<u8>> {
    let mut out = BTreeSet::new();
    for script in files(&crates.join("evenkeel-promql/tests/promqltest")) {
        for line in String::from_utf8_lossy(&script).lines() {
            let mut words = line.split_whitespace();
            if words.next().is_some_and(|w| w.starts_with("eval"))
                && words.next() == Some("instant")
                && let Some((_, rest)) = line.split_once(" at ")
                && let Some((_, query)) = rest.split_once(' ')
            {
                out.insert(query.trim().as_bytes().to_vec());
            }
        }
    }
    let every = (out.len() / QUERIES_MAX).max(1);
    out.into_iter().step_by(every).collect()
}

/// Made-up sequences of events.
fn events() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(7);
    let mut byte = || rng.next_u64().to_be_bytes()[0];
    (1..=16).map(|n| (0..n * 100).map(|_| byte()).collect()).collect()
}

/// Pieces of Prometheus' test scripts: each load with the evaluations that follow it.
fn scripts(crates: &Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for script in files(&crates.join("evenkeel-promql/tests/promqltest")) {
        let script = String::from_utf8_lossy(&script).into_owned();
        let mut piece = String::new();
        for block in script.split("\n\n") {
            let is_load = block.lines().any(|line| line.starts_with("load"));
            if is_load || piece.len() + block.len() > 1500 {
                out.push(std::mem::take(&mut piece));
            }
            let kept = block.lines().filter(|line| !line.starts_with('#') && *line != "clear");
            for line in kept {
                piece.push_str(line);
                piece.push('\n');
            }
            piece.push('\n');
        }
        out.push(piece);
    }
    out.into_iter().map(|piece| piece.trim_start().as_bytes().to_vec()).collect()
}
