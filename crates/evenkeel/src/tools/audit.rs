use std::process::ExitCode;

use evenkeel_guard::{read, verify};

use crate::{
    cli::{AuditCommand, Output},
    io, paths,
};

/// Runs `evenkeel audit ...`.
pub(crate) fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Verify { data_dir } => {
            let dir = paths::data_dir(data_dir.as_deref())?.join("audit");
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
            let dir = paths::data_dir(data_dir.as_deref())?.join("audit");
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
        let verdict = cell("verdict");
        row.push(if verdict.is_empty() { cell("outcome") } else { verdict });
        rows.push(row);
    }
    let head = ["SEQ", "TIME", "CONTROLLER", "OBJECT", "ACTION", "REASON", "DIRECTION", "VERDICT"];
    Ok(io::table(&head, &rows))
}
