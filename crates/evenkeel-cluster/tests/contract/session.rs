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
