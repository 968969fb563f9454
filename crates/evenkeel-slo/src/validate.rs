//! Sloth's checks of one SLO, in Sloth's order: the first that fails is the verdict.

use crate::model::{Alert, Labels, Sli, Slo};
use crate::query::{Checker, Dialect};
use crate::template;

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Field below the SLO, `sli.events`; empty for the SLO itself.
    pub field: &'static str,
    /// Sloth's text, without the `invalid slo "<id>": ` before it.
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

/// All checks.
pub(crate) fn check(slo: &Slo, queries: &mut Queries<'_>) -> Check {
    let part = if check_name(&slo.service, "", "").is_err() { "service" } else { "name" };
    check_name(&slo.id, "invalid SLO ID", part)?;
    check_name(&slo.name, "invalid SLO name", "name")?;
    check_name(&slo.service, "invalid SLO service", "service")?;
    if slo.window.is_zero() {
        return refuse("window", "time window is required", "give a window such as 30d");
    }
    if !(slo.objective > 0.0 && slo.objective <= 100.0) {
        let fix = "give a percentage such as 99.9";
        return refuse("objective", "objective must >0 and <=100", fix);
    }
    for (key, value) in &slo.labels {
        check_label(key, value, "SLO", "labels")?;
    }
    check_sli(&slo.sli, queries)?;
    for (alert, kind) in [(&slo.page_alert, "page"), (&slo.ticket_alert, "ticket")] {
        if let Some(alert) = alert {
            check_alert(alert).map_err(|r| Refusal {
                message: format!("invalid alert: {kind} alert: {}", r.message),
                ..r
            })?;
        }
    }
    if slo.plugins.override_previous && slo.plugins.plugins.is_empty() {
        let message = "invalid plugins: override plugins is set but no plugins are defined";
        return refuse("plugins", message, "give a chain, or drop overridePrevious");
    }
    if slo.plugins.plugins.iter().any(|p| p.id.is_empty()) {
        return refuse("plugins", "invalid plugins: plugin ID is required", "give the plugin's id");
    }
    Ok(())
}

fn refuse(field: &'static str, message: impl Into<String>, fix: &'static str) -> Check {
    Err(Refusal { field, message: message.into(), fix })
}

/// `^[A-Za-z0-9][-A-Za-z0-9_.]*[A-Za-z0-9]$`: two characters at least.
fn check_name(name: &str, what: &str, field: &'static str) -> Check {
    if name.is_empty() {
        return refuse(field, format!("{what}: required"), "give it a name");
    }
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let ok = bytes.len() >= 2
        && ends.iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
    if ok {
        return Ok(());
    }
    let rule = "name must start and end with an alphanumeric and can only contain alphanumeric, \
                '.', '_', and '-'";
    refuse(field, format!("{what}: {rule}"), "use two or more letters and digits, '.', '_', '-'")
}

fn check_label(key: &str, value: &str, what: &str, field: &'static str) -> Check {
    let name = if key == "__name__" {
        Some(format!("the label key {key:?} is not allowed"))
    } else if key.is_empty() {
        Some(format!("the label key {key:?} is not valid"))
    } else {
        None
    };
    if let Some(name) = name {
        return refuse(field, format!("invalid {what} label key {key:?}: {name}"), "rename it");
    }
    if value.is_empty() {
        let message = format!("invalid {what} label value \"\": the label value is required");
        return refuse(field, message, "give the label a value");
    }
    Ok(())
}

fn check_sli(sli: &Sli, queries: &mut Queries<'_>) -> Check {
    let within = |r: Refusal| Refusal { message: format!("invalid SLI: {}", r.message), ..r };
    match (&sli.events, &sli.raw) {
        (None, None) => {
            let fix = "give sli.events, sli.raw or sli.plugin";
            refuse("sli", "invalid SLI: at least one SLI type is required", fix)
        }
        (Some(_), Some(_)) => {
            let fix = "keep one of sli.events, sli.raw and sli.plugin";
            refuse("sli", "invalid SLI: only one SLI type is allowed", fix)
        }
        (Some(events), None) => {
            if events.error_query == events.total_query {
                let message = "invalid SLI: both error and total queries can't be the same";
                let fix = "give each a query of its own";
                return refuse("sli.events", message, fix);
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
        let message = format!("sli {name} query template: query template is required: required");
        return refuse(field, message, "give the query");
    }
    if !template::has_window(query) {
        let what = "template must contain the {{ .window }} variable";
        let fix = "use {{.window}} as the range of every selector: rate(x[{{.window}}])";
        return refuse(field, format!("sli {name} query template: {what}"), fix);
    }
    Ok(())
}

fn check_query(query: &str, name: &str, field: &'static str, queries: &mut Queries<'_>) -> Check {
    queries.checker.check(query, queries.dialect).map_err(|error| Refusal {
        field,
        message: format!("sli {name} query expression: {error}"),
        fix: "correct the query",
    })
}

fn check_alert(alert: &Alert) -> Check {
    if alert.name.is_empty() {
        let fix = "give alerting.name, or disable the alert";
        return refuse("alerting.name", "alert name is required", fix);
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
            let message = format!("invalid alert annotation key {key:?}: {what}");
            return refuse(field, message, "rename it");
        }
        if value.is_empty() {
            let what = "the annotation value is required";
            let message = format!("invalid alert annotation value \"\": {what}");
            return refuse(field, message, "give the annotation a value");
        }
    }
    Ok(())
}
