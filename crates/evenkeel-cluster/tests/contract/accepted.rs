use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use crate::{folder, is_update};

/// An answer of the embedded API server that is not the real one's.
#[derive(Clone, PartialEq)]
pub(crate) struct Difference {
    pub(crate) case: String,
    pub(crate) command: String,
    /// `- ` and a line of the real one, `+ ` and one of the embedded one.
    pub(crate) lines: String,
}

/// A difference that is known.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) difference: Difference,
    why: String,
}

/// What a row has whose reason nobody has given yet.
const UNKNOWN: &str = "?";
const HEAD: &str = "\
# Where the embedded API server answers otherwise than Kubernetes 1.33, and why that is accepted.
# `-` is a line of Kubernetes, `+` a line of the embedded one. A row that is no difference any more
# fails the test, and so does a difference that is not here. `UPDATE=1` writes this file.
";

static FILE: Mutex<()> = Mutex::new(());

pub(crate) fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(folder().join("accepted.txt")).unwrap_or_default();
    let mut rows: Vec<Row> = Vec::new();
    let (mut case, mut why) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            name.clone_into(&mut case);
        } else if let Some(reason) = line.strip_prefix("why: ") {
            reason.clone_into(&mut why);
        } else if let Some(command) = line.strip_prefix("$ ") {
            let difference = Difference {
                case: case.clone(),
                command: command.to_owned(),
                lines: String::new(),
            };
            rows.push(Row { difference, why: std::mem::take(&mut why) });
        } else if let (Some(row), true) = (rows.last_mut(), line.starts_with(['-', '+'])) {
            let lines = &mut row.difference.lines;
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(line.trim_end());
        }
    }
    rows
}

fn write(rows: &[Row]) {
    let mut text = HEAD.to_owned();
    let mut case = "";
    for row in rows {
        if row.difference.case != case {
            case = &row.difference.case;
            writeln!(text, "\n## {case}").unwrap();
        }
        let Difference { command, lines, .. } = &row.difference;
        writeln!(text, "\nwhy: {}\n$ {command}\n{lines}", row.why).unwrap();
    }
    std::fs::write(folder().join("accepted.txt"), text).unwrap();
}

/// Compares what differs in a session with the table.
pub(crate) fn check(case: &str, found: Vec<Difference>) {
    let guard = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let all = rows();
    let (own, mut others): (Vec<Row>, Vec<Row>) =
        all.into_iter().partition(|row| row.difference.case == case);
    let found: Vec<Difference> = found
        .into_iter()
        .map(|mut difference| {
            let lines: Vec<&str> = difference.lines.lines().map(str::trim_end).collect();
            difference.lines = lines.join("\n");
            difference
        })
        .collect();
    if is_update() {
        others.extend(found.into_iter().map(|difference| {
            let known = own.iter().find(|row| row.difference.command == difference.command);
            let why = known.map_or(UNKNOWN, |row| &row.why).to_owned();
            Row { difference, why }
        }));
        others.sort_by(|a, b| a.difference.case.cmp(&b.difference.case));
        write(&others);
        return;
    }
    drop(guard);
    let mut faults = Vec::new();
    for difference in &found {
        if !own.iter().any(|row| row.difference == *difference) {
            faults.push(format!("not accepted:\n$ {}\n{}", difference.command, difference.lines));
        }
    }
    for row in &own {
        let Difference { command, lines, .. } = &row.difference;
        if !found.contains(&row.difference) {
            faults.push(format!("no difference any more:\n$ {command}\n{lines}"));
        }
        if row.why.is_empty() || row.why == UNKNOWN {
            faults.push(format!("without a reason:\n$ {command}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
