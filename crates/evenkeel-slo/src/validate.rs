//! Sloth's checks of one SLO, in Sloth's order: the first that fails is the verdict.

use crate::model::{Alert, Labels, Sli, Slo};
use crate::number::go_g;
use crate::query::{Checker, Dialect};
use crate::template;

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Field below the SLO, `sli.events`; empty for the SLO itself.
    pub field: &'static str,
    /// Sloth's text, without the `invalid slo "<id>": ` before it: its verdict word by word.
    pub sloth: String,
    /// The same for people, beside the object and the field.
    pub message: String,
    /// What to do.
    pub fix: &'static str,
}

type Check = Result<(), Refusal>;

/// How queries are checked.
pub(crate) struct Queries<'a> {
    /// Their language.
    pub(crate) dialect: Dialect,
    /// Remembers what was checked before.
    pub(crate) checker: &'a mut Checker,
}

/// All checks. `written` is the name in the document, which an SLO's own may be made of.
pub(crate) fn check(slo: &Slo, written: &str, queries: &mut Queries<'_>) -> Check {
    let service = Named { field: "service", text: &slo.service };
    let name = Named { field: "name", text: written };
    let culprit = if service.is_valid() { name } else { service };
    check_name(&slo.id, "invalid SLO ID", culprit)?;
    check_name(&slo.name, "invalid SLO name", name)?;
    check_name(&slo.service, "invalid SLO service", service)?;
    if slo.window.is_zero() {
        let sloth = "time window is required";
        return refuse("window", sloth, "the window is missing", "give a window such as 30d");
    }
    if !(slo.objective > 0.0 && slo.objective <= 100.0) {
        let fix = "give a percentage such as 99.9";
        let message =
            format!("must be above 0 and at most 100 percent, not {}", go_g(slo.objective));
        return refuse("objective", "objective must >0 and <=100", message, fix);
    }
    for (key, value) in &slo.labels {
        check_label(key, value, "SLO", "labels")?;
    }
    check_sli(&slo.sli, queries)?;
    for (alert, kind) in [(&slo.page_alert, "page"), (&slo.ticket_alert, "ticket")] {
        if let Some(alert) = alert {
            check_alert(alert).map_err(|r| Refusal {
                sloth: format!("invalid alert: {kind} alert: {}", r.sloth),
                message: format!("{kind} alert: {}", r.message),
                ..r
            })?;
        }
    }
    if slo.plugins.override_previous && slo.plugins.plugins.is_empty() {
        let sloth = "invalid plugins: override plugins is set but no plugins are defined";
        let message = "overridePrevious is true, but there is no plugin";
        return refuse("plugins", sloth, message, "give a chain, or drop overridePrevious");
    }
    if slo.plugins.plugins.iter().any(|p| p.id.is_empty()) {
        let sloth = "invalid plugins: plugin ID is required";
        return refuse("plugins", sloth, "a plugin has no id", "give the plugin's id");
    }
    Ok(())
}

fn refuse(
    field: &'static str,
    sloth: impl Into<String>,
    message: impl Into<String>,
    fix: &'static str,
) -> Check {
    Err(Refusal { field, sloth: sloth.into(), message: message.into(), fix })
}

/// A name and where it is written.
#[derive(Clone, Copy)]
struct Named<'a> {
    field: &'static str,
    text: &'a str,
}

impl Named<'_> {
    fn is_valid(self) -> bool {
        is_name(self.text)
    }

    /// What is wrong with it, and what to do.
    fn problem(self) -> (String, &'static str) {
        let Self { field, text } = self;
        match text.chars().count() {
            0 => (format!("the {field} is missing"), "write it, such as checkout"),
            1 => (
                format!("the {field} {text:?} is too short"),
                "use two or more letters, digits, '.', '_' or '-'",
            ),
            _ => (
                format!(
                    "the {field} {text:?} may only have letters, digits, '.', '_' and '-', and a \
                     letter or digit at both ends"
                ),
                "rename it",
            ),
        }
    }
}

/// `^[A-Za-z0-9][-A-Za-z0-9_.]*[A-Za-z0-9]$`: two characters at least.
fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() >= 2
        && ends.iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Checks a name, and blames what it is made of.
fn check_name(name: &str, what: &str, culprit: Named<'_>) -> Check {
    if is_name(name) {
        return Ok(());
    }
    let rule = if name.is_empty() {
        "required"
    } else {
        "name must start and end with an alphanumeric and can only contain alphanumeric, '.', \
         '_', and '-'"
    };
    let (message, fix) = culprit.problem();
    refuse(culprit.field, format!("{what}: {rule}"), message, fix)
}

fn check_label(key: &str, value: &str, what: &str, field: &'static str) -> Check {
    let (sloth, message) = if key == "__name__" {
        ("not allowed", "the label key \"__name__\" is reserved")
    } else if key.is_empty() {
        ("not valid", "a label has an empty key")
    } else if value.is_empty() {
        let sloth = format!("invalid {what} label value \"\": the label value is required");
        return refuse(field, sloth, format!("label {key} is empty"), "give the label a value");
    } else {
        return Ok(());
    };
    let sloth = format!("invalid {what} label key {key:?}: the label key {key:?} is {sloth}");
    refuse(field, sloth, message, "rename it")
}

fn check_sli(sli: &Sli, queries: &mut Queries<'_>) -> Check {
    let within = |r: Refusal| Refusal { sloth: format!("invalid SLI: {}", r.sloth), ..r };
    match (&sli.events, &sli.raw) {
        (None, None) => {
            let sloth = "invalid SLI: at least one SLI type is required";
            let fix = "give sli.events, sli.raw or sli.plugin";
            refuse("sli", sloth, "the SLO has no indicator", fix)
        }
        (Some(_), Some(_)) => {
            let sloth = "invalid SLI: only one SLI type is allowed";
            let fix = "keep one of sli.events, sli.raw and sli.plugin";
            refuse("sli", sloth, "the SLO has more than one indicator", fix)
        }
        (Some(events), None) => {
            if events.error_query == events.total_query {
                let sloth = "invalid SLI: both error and total queries can't be the same";
                let message = "the error query and the total query are the same";
                return refuse("sli.events", sloth, message, "give each a query of its own");
            }
            let pairs = [("error", &events.error_query), ("total", &events.total_query)];
            for (name, query) in pairs {
                check_template(query, name, "sli.events").map_err(within)?;
            }
            for (name, query) in pairs {
                check_query(query, name, "sli.events", queries).map_err(within)?;
            }
            Ok(())
        }
        (None, Some(raw)) => check_template(raw, "raw", "sli.raw")
            .and_then(|()| check_query(raw, "raw", "sli.raw", queries))
            .map_err(within),
    }
}

fn check_template(query: &str, name: &str, field: &'static str) -> Check {
    if query.is_empty() {
        let sloth = format!("sli {name} query template: query template is required: required");
        return refuse(field, sloth, format!("the {name} query is missing"), "give the query");
    }
    if !template::has_window(query) {
        let what = "template must contain the {{ .window }} variable";
        let fix = "use {{.window}} as the range of every selector: rate(x[{{.window}}])";
        let message = format!("the {name} query does not use {{{{.window}}}}");
        return refuse(field, format!("sli {name} query template: {what}"), message, fix);
    }
    Ok(())
}

fn check_query(query: &str, name: &str, field: &'static str, queries: &mut Queries<'_>) -> Check {
    queries.checker.check(query, queries.dialect).map_err(|error| Refusal {
        field,
        sloth: format!("sli {name} query expression: {error}"),
        message: format!("the {name} query cannot be read: {error}"),
        fix: "correct the query",
    })
}

fn check_alert(alert: &Alert) -> Check {
    if alert.name.is_empty() {
        let fix = "give alerting.name, or disable the alert";
        return refuse("alerting.name", "alert name is required", "it has no name", fix);
    }
    for (key, value) in &alert.labels {
        check_label(key, value, "alert", "alerting.labels")?;
    }
    check_annotations(&alert.annotations)
}

fn check_annotations(annotations: &Labels) -> Check {
    let field = "alerting.annotations";
    for (key, value) in annotations {
        if key.is_empty() {
            let what = format!("the annotation key {key:?} is not valid");
            let sloth = format!("invalid alert annotation key {key:?}: {what}");
            return refuse(field, sloth, "an annotation has an empty key", "rename it");
        }
        if value.is_empty() {
            let what = "the annotation value is required";
            let sloth = format!("invalid alert annotation value \"\": {what}");
            let message = format!("annotation {key} is empty");
            return refuse(field, sloth, message, "give the annotation a value");
        }
    }
    Ok(())
}
