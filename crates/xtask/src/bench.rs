use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// How results are shown.
enum Form {
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

/// What a script answers whose report shows a missed goal.
const MISSED: i32 = 1;

/// Runs `bench/NAME/run`, which measures both sides and prints a [`Report`]; progress goes to
/// the error stream. It takes the words that `-o json` leaves.
pub(crate) fn run(name: &str, words: &[&str]) -> anyhow::Result<()> {
    let json = words.windows(2).position(|two| two == ["-o", "json"]);
    let form = if json.is_some() { Form::Json } else { Form::Table };
    let of_form = |at: usize| json.is_some_and(|json| json == at || json + 1 == at);
    let rest = words.iter().enumerate().filter(|(at, _)| !of_form(*at)).map(|(_, word)| word);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let script = root.join("bench").join(name).join("run");
    if !name.chars().all(|c| c.is_ascii_lowercase()) || !script.is_file() {
        bail!("no benchmark {name:?}: see the folders under bench/");
    }
    let done = Command::new(&script)
        .args(rest)
        .current_dir(&root)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", script.display()))?;
    let is_missed = done.status.code() == Some(MISSED) && !done.stdout.is_empty();
    if !done.status.success() && !is_missed {
        bail!("{} ended with {}", script.display(), done.status);
    }
    let report: Report = serde_json::from_slice(&done.stdout)
        .with_context(|| format!("{} printed no report", script.display()))?;
    show(&report, &form)?;
    if is_missed {
        bail!("a goal is missed");
    }
    Ok(())
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
