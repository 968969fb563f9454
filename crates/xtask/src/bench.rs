use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// How results are shown.
pub(crate) enum Form {
    /// A table for people.
    Table,
    /// One JSON object for scripts.
    Json,
}

/// What every benchmark prints.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    rows: Vec<Row>,
}

/// One comparison; both sides measured in this run, medians.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    what: String,
    ours: serde_json::Value,
    peer: serde_json::Value,
    goal: serde_json::Value,
    ok: bool,
}

/// Runs `bench/NAME/run`, which measures both sides and prints a [`Report`]; progress goes to
/// the error stream.
pub(crate) fn run(name: &str, form: &Form) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let script = root.join("bench").join(name).join("run");
    if !name.chars().all(|c| c.is_ascii_lowercase()) || !script.is_file() {
        bail!("no benchmark {name:?}: see the folders under bench/");
    }
    let done = Command::new(&script)
        .current_dir(&root)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", script.display()))?;
    if !done.status.success() {
        bail!("{} ended with {}", script.display(), done.status);
    }
    let report: Report = serde_json::from_slice(&done.stdout)
        .with_context(|| format!("{} printed no report", script.display()))?;
    show(&report, form)
}

#[expect(clippy::print_stdout, reason = "a command line tool prints its result")]
fn show(report: &Report, form: &Form) -> anyhow::Result<()> {
    match form {
        Form::Json => println!("{}", serde_json::to_string(report)?),
        Form::Table => {
            println!("{:<64} {:>14} {:>14} {:>14}  OK", "WHAT", "OURS", "PEER", "GOAL");
            for row in &report.rows {
                let text = |value: &serde_json::Value| match value {
                    serde_json::Value::String(text) => text.clone(),
                    serde_json::Value::Null => "-".to_owned(),
                    other => other.to_string(),
                };
                let (ours, peer, goal) = (text(&row.ours), text(&row.peer), text(&row.goal));
                let ok = if row.ok { "yes" } else { "NO" };
                println!("{:<64} {ours:>14} {peer:>14} {goal:>14}  {ok}", row.what);
            }
        }
    }
    Ok(())
}
