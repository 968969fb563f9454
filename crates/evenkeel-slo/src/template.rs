//! The part of Go's `text/template` that SLI queries use: `{{ .window }}`.

/// A query with the window still open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Window,
}

/// Why a query template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// `{{` without `}}`.
    #[error("template: unclosed action, \"{{{{\" at byte {at} has no \"}}}}\"")]
    Unclosed {
        /// Where the action starts.
        at: usize,
    },
    /// An action other than the window, a string or a comment.
    #[error("template: action {action:?} is not known, only {{{{ .window }}}} can be used")]
    Unknown {
        /// The text between the braces.
        action: String,
    },
}

impl Template {
    /// Reads a query.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut trim_next = false;
        loop {
            let open = rest.find("{{");
            let literal = open.map_or(rest, |at| rest.split_at(at).0);
            let literal = if trim_next { literal.trim_start() } else { literal };
            let Some(at) = open else {
                push_text(&mut parts, literal);
                return Ok(Self { parts });
            };
            let body = rest.split_at(at + 2).1;
            let close = body
                .find("}}")
                .ok_or(TemplateError::Unclosed { at: text.len() - rest.len() + at })?;
            let (mut action, tail) = body.split_at(close);
            let literal = match action.strip_prefix("- ") {
                Some(inner) => {
                    action = inner;
                    literal.trim_end()
                }
                None => literal,
            };
            push_text(&mut parts, literal);
            trim_next = action.ends_with(" -");
            let action = action.strip_suffix(" -").unwrap_or(action).trim();
            push_action(&mut parts, action)?;
            rest = tail.split_at(2).1;
        }
    }

    /// The query for one window, in Prometheus' notation.
    pub(crate) fn render(&self, window: &str) -> String {
        let mut out = String::new();
        self.render_into(window, &mut out);
        out
    }

    /// As [`Template::render`], appended to a buffer.
    pub(crate) fn render_into(&self, window: &str, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Window => out.push_str(window),
            }
        }
    }
}

/// True when the text has `{{ .window }}` in the form Sloth's own check looks for.
pub(crate) fn has_window(text: &str) -> bool {
    text.split("{{").skip(1).any(|tail| {
        tail.trim_start_matches(' ')
            .strip_prefix(".window")
            .is_some_and(|rest| rest.trim_start_matches(' ').starts_with("}}"))
    })
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

fn push_action(parts: &mut Vec<Part>, action: &str) -> Result<(), TemplateError> {
    let quoted = |mark: char| {
        let inner = action.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inner.contains(mark) && !inner.contains('\\')).then_some(inner)
    };
    if action == ".window" {
        parts.push(Part::Window);
    } else if let Some(inner) = quoted('"').or_else(|| quoted('`')) {
        push_text(parts, inner);
    } else if !(action.starts_with("/*") && action.ends_with("*/")) {
        return Err(TemplateError::Unknown { action: action.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_filled_in_wherever_it_stands() {
        let render = |text: &str| Template::parse(text).map(|t| t.render("5m"));
        assert_eq!(render("rate(x[{{.window}}])").unwrap(), "rate(x[5m])");
        assert_eq!(render("a[{{ .window }}] / b[{{.window}}]").unwrap(), "a[5m] / b[5m]");
        assert_eq!(render("a {{- /* why */ -}} b").unwrap(), "ab");
        assert_eq!(render(r#"{{"{{"}}x"#).unwrap(), "{{x");
        assert!(matches!(render("x[{{.window"), Err(TemplateError::Unclosed { at: 2 })));
        assert!(matches!(render("x{{.job}}"), Err(TemplateError::Unknown { .. })));
        assert!(has_window("x[{{  .window }}]"));
        assert!(!has_window("x[{{ window }}]"));
        assert!(!has_window("x[5m]"));
    }
}
