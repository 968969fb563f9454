//! SLI queries with the window left open: `rate(x[{{ .window }}])`, a template of Go.
//!
//! Nearly every query has nothing but the window in it and is taken apart once. Anything else, such
//! as `{{ $w := .window }}`, is run as the whole template it is.

use evenkeel_promql::template as go;

/// A query with the window still open.
#[derive(Clone, Debug)]
pub(crate) struct Template(Form);

#[derive(Clone, Debug)]
enum Form {
    /// Texts with the window between any two of them.
    Parts(Vec<String>),
    Whole(Box<go::Template>),
}

/// Why a query template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub(crate) struct TemplateError(#[from] go::TemplateError);

impl Template {
    /// Reads a query.
    ///
    /// **Errors**: it is not a template, or cannot be filled in.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        if let Some(parts) = parts(text) {
            return Ok(Self(Form::Parts(parts)));
        }
        let whole = go::Template::parse_go(text)?;
        // What can go wrong does so for every window.
        whole.render(&scope("1m"))?;
        Ok(Self(Form::Whole(Box::new(whole))))
    }

    /// The query for one window, in Prometheus' notation.
    pub(crate) fn render(&self, window: &str) -> String {
        let mut out = String::new();
        self.render_into(window, &mut out);
        out
    }

    /// As [`Template::render`], appended to a buffer.
    pub(crate) fn render_into(&self, window: &str, out: &mut String) {
        match &self.0 {
            Form::Parts(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        out.push_str(window);
                    }
                    out.push_str(part);
                }
            }
            Form::Whole(whole) => out.push_str(&whole.render(&scope(window)).unwrap_or_default()),
        }
    }
}

/// What a query's template sees: the window below the dot, and nothing else.
fn scope(window: &str) -> go::Scope<'static> {
    let window = go::Data::Text(window.to_owned());
    go::Scope {
        root: go::Data::Map([("window".to_owned(), window)].into()),
        missing: go::Missing::Error,
        ..go::Scope::default()
    }
}

/// The texts around the window; `None` when there is any other action.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut pieces = text.split("{{");
    let mut out = vec![pieces.next()?.to_owned()];
    for piece in pieces {
        let (action, after) = piece.split_once("}}")?;
        if action.trim() != ".window" {
            return None;
        }
        out.push(after.to_owned());
    }
    Some(out)
}

/// True when the text has `{{ .window }}` in the form Sloth's own check looks for.
pub(crate) fn has_window(text: &str) -> bool {
    text.split("{{").skip(1).any(|tail| {
        tail.trim_start_matches(' ')
            .strip_prefix(".window")
            .is_some_and(|rest| rest.trim_start_matches(' ').starts_with("}}"))
    })
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
        assert_eq!(
            render("{{ $w := .window }}a[{{ .window }}] / b[{{ $w }}]").unwrap(),
            "a[5m] / b[5m]"
        );
        assert_eq!(
            render(r#"{{ if eq .window "5m" }}a{{ else }}b{{ end }}[{{.window}}]"#).unwrap(),
            "a[5m]"
        );
        assert_eq!(render("x[{{ printf \"%s:1m\" .window }}]").unwrap(), "x[5m:1m]");
        let error = |text: &str| render(text).unwrap_err().to_string();
        assert_eq!(error("x[{{.window"), "template: line 1: unclosed action");
        assert_eq!(error("x{{.job}}"), "template: line 1: map has no entry for key \"job\"");
        assert_eq!(error("{{ $v }}"), "template: line 1: undefined variable \"$v\"");
        // Functions of alert templates are not there.
        assert_eq!(
            error("{{ humanize 1 }}"),
            "template: line 1: function \"humanize\" not defined"
        );
        assert!(has_window("x[{{  .window }}]"));
        assert!(!has_window("x[{{ window }}]"));
        assert!(!has_window("x[5m]"));
    }
}
