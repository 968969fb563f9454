use std::fmt::Write as _;

/// A command and what the real API server answers.
pub(crate) struct Step {
    /// Comments and empty lines above it.
    above: String,
    pub(crate) command: String,
    pub(crate) answer: String,
}

/// Reads a session: `$ command`, below it its answer, indented; everything else is comment.
pub(crate) fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut above = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let above = std::mem::take(&mut above);
            steps.push(Step { above, command: command.to_owned(), answer: String::new() });
        } else if let (Some(said), Some(step)) = (line.strip_prefix("    "), steps.last_mut()) {
            step.answer.push_str(said);
            step.answer.push('\n');
        } else {
            above.push_str(line);
            above.push('\n');
        }
    }
    steps
}

pub(crate) fn write(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        text.push_str(&step.above);
        writeln!(text, "$ {}", step.command).unwrap();
        for line in step.answer.lines() {
            writeln!(text, "    {line}").unwrap();
        }
    }
    text
}

/// The lines that only one of the two has.
pub(crate) fn diff(real: &str, embedded: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (real.lines().collect(), embedded.lines().collect());
    // Longest common subsequence of what follows.
    let mut common = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("- {}", a[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", b[j]));
            j += 1;
        }
    }
    lines.join("\n")
}
