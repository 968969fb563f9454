use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use evenkeel_guard::{Entry, read, verify};

use crate::{
    cli::{AuditCommand, Output},
    io, paths,
};

/// Runs `evenkeel audit ...`.
pub(crate) fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Verify { data_dir } => {
            let dir = folder(data_dir.as_deref())?;
            match verify(&dir) {
                Ok(summary) => {
                    let (lines, files) = (summary.lines, summary.files);
                    io::print(&format!(
                        "{lines} lines in {files} files, whole: {}\n",
                        summary.hash
                    ));
                    Ok(ExitCode::SUCCESS)
                }
                Err(tampering) => {
                    io::complain(&format!("{}: {tampering}", dir.display()));
                    Ok(ExitCode::FAILURE)
                }
            }
        }
        AuditCommand::List { data_dir, output } => {
            let dir = folder(data_dir.as_deref())?;
            let lines = read(&dir).map_err(|t| anyhow::anyhow!("{}: {t}", dir.display()))?;
            io::print(&match output {
                Output::Table => table(&lines)?,
                Output::Json => serde_json::to_string(&lines)?,
                Output::Yaml => serde_saphyr::to_string(&lines)?,
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn folder(data_dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    let data_dir = paths::existing_data_dir(data_dir)?;
    let dir = data_dir.join("audit");
    if !dir.is_dir() {
        bail!(
            "{} has no audit record: nothing was done there yet, or another --data-dir was given \
             to `evenkeel up` or `evenkeel run`",
            data_dir.display()
        );
    }
    Ok(dir)
}

fn table(lines: &[evenkeel_guard::Line]) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for line in lines {
        let value = serde_json::to_value(line)?;
        let cell = |name: &str| match value.get(name) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let names = ["seq", "time", "controller", "object", "action", "reason", "direction"];
        let mut row: Vec<String> = names.iter().map(|name| cell(name)).collect();
        if let Entry::Outcome { of, error, .. } = &line.entry {
            row[4] = of.map_or_else(String::new, |of| format!("outcome of {of}"));
            row[5] = error.clone().unwrap_or_default();
        }
        let verdict = cell("verdict");
        row.push(if verdict.is_empty() { cell("outcome") } else { verdict });
        rows.push(row);
    }
    let head = ["SEQ", "TIME", "CONTROLLER", "OBJECT", "ACTION", "REASON", "DIRECTION", "VERDICT"];
    Ok(io::table(&head, &rows))
}

#[cfg(test)]
mod tests {
    use evenkeel_guard::Line;

    use super::*;

    fn line(seq: u64, entry: Entry) -> Line {
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        Line { v: 1, seq, time, late: false, entry, prev: String::new(), hash: String::new() }
    }

    fn ask(action: &str, verdict: &str) -> Entry {
        Entry::Ask {
            controller: "delivery".to_owned(),
            object: "Canary/default/api".to_owned(),
            verb: "patch".to_owned(),
            action: action.to_owned(),
            reason: "StepDue".to_owned(),
            direction: "riskier".to_owned(),
            verdict: verdict.to_owned(),
            why: None,
            before: None,
            after: None,
        }
    }

    #[test]
    fn the_list_says_what_was_done_and_what_became_of_it() {
        let failed = Some("no answer".to_owned());
        let lines = [
            line(1, ask("set weights of HTTPRoute/default/api to 90/10", "allow")),
            line(2, Entry::Outcome { of: Some(1), outcome: "failed".to_owned(), error: failed }),
            line(3, ask("scale Deployment/default/api to 3", "deny")),
        ];
        let table = table(&lines).unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let [head, asked, ended, denied] = &rows[..] else { panic!("{table}") };
        assert_eq!(head[4], "ACTION");
        assert_eq!(asked[4], "set weights of HTTPRoute/default/api to 90/10");
        assert_eq!(asked[5..], ["StepDue", "riskier", "allow"]);
        assert_eq!(ended[2..], ["outcome of 1", "no answer", "failed"]);
        assert_eq!((denied[4], denied[7]), ("scale Deployment/default/api to 3", "deny"));
    }

    #[test]
    fn a_folder_without_a_record_says_what_to_name() {
        let error = folder(Some(Path::new("no/such"))).unwrap_err().to_string();
        assert_eq!(
            error,
            "no/such is not there: name the folder that `evenkeel up` or `evenkeel run` wrote to \
             (--data-dir)"
        );
        let error = folder(Some(Path::new("src"))).unwrap_err().to_string();
        assert!(
            error.starts_with("src has no audit record: nothing was done there yet"),
            "{error}"
        );
    }
}
