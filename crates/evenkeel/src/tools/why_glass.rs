//! What `evenkeel why` says about a `BreakGlass`: no controller looks after it, the answers about
//! releases take it into account.

use std::sync::Arc;

use evenkeel_api::{Obj, slo::OpenGlass};
use evenkeel_slo::policy::{ActionClass, BreakGlass, ErrorBudgetPolicy};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::why_time::moment;

/// What a `BreakGlass` opens now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Glass {
    /// `Open`, `NotYet`, `Expired`, or `NoEffect`.
    pub(super) state: &'static str,
    /// Why it has no effect, or not with one of the policies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    /// Canaries that would not be allowed a release without it, as `Kind/namespace/name`.
    opens: Vec<String>,
    #[serde(skip)]
    lines: Vec<String>,
}

impl Glass {
    /// By what else there is in its namespace.
    pub(super) fn of(
        glass: &Obj,
        policies: &[Arc<Obj>],
        canaries: &[Arc<Obj>],
        now: Timestamp,
    ) -> Self {
        let spec = glass.json().get("spec").unwrap_or(&Value::Null);
        // One that is not valid has a condition that says so.
        let policies =
            policies.iter().filter_map(|obj| ErrorBudgetPolicy::from_value(obj.json()).ok());
        let mut judges: Vec<_> = policies.collect();
        let nothing_is_held = judges.is_empty();
        if nothing_is_held {
            judges.push(ErrorBudgetPolicy::built_in());
        }
        let (mut accepted, mut problems) = (None, Vec::new());
        for policy in &judges {
            match BreakGlass::from_spec(spec, policy) {
                Ok(glass) => accepted = Some(glass),
                Err(error) if judges.len() == 1 => problems.push(error.to_string()),
                Err(error) => {
                    problems.push(format!("ErrorBudgetPolicy/{}: {error}", policy.name()));
                }
            }
        }
        let Some(accepted) = accepted else {
            let mut lines = vec!["  state: it has no effect".to_owned()];
            lines.extend(problems.iter().map(|problem| format!("    because   {problem}")));
            return Self { state: "NoEffect", problems, opens: Vec::new(), lines };
        };
        let BreakGlass { reason, author, granted, expires, classes } = accepted;
        let (state, words) = if now < granted {
            ("NotYet", format!("not open yet, opens {}", moment(now, granted)))
        } else if now < expires {
            ("Open", format!("open, expires {}", moment(now, expires)))
        } else {
            ("Expired", format!("expired {}", moment(now, expires)))
        };
        let mut lines =
            vec![format!("  state: {words}"), format!("  granted by {author}: {reason}")];
        lines.extend(problems.iter().map(|problem| format!("  not with {problem}")));
        let mut opens = Vec::new();
        for canary in canaries {
            if let Some(used) = used(canary).filter(|used| used.name == glass.name()) {
                lines.push(format!(
                    "  opens {}: without it {} holds a release",
                    canary.key(),
                    used.slo
                ));
                opens.push(canary.key().to_string());
            }
        }
        if state == "Open" && opens.is_empty() {
            let why = if !classes.contains(&ActionClass::Deploy) {
                "its classes have no deploy, which is what releases are"
            } else if nothing_is_held {
                "there is no valid ErrorBudgetPolicy in its namespace, so no release is held"
            } else {
                "no Canary of its namespace needs it at present"
            };
            lines.push(format!("  opens nothing: {why}"));
        }
        Self { state, problems, opens, lines }
    }

    /// Whether a person should look at it: it does not do what it was made for.
    pub(super) fn needs_attention(&self) -> bool {
        self.state == "NoEffect"
    }

    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// The exception that a Canary's answer leans on.
fn used(canary: &Obj) -> Option<OpenGlass> {
    let used = canary.json().pointer("/status/errorBudget/breakGlass")?;
    serde_json::from_value(used.clone()).ok()
}

/// What is said about that in one line.
pub(super) fn used_by(canary: &Obj) -> Option<String> {
    Some(format!("  budget: opened by an exception: {}", used(canary)?))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn obj(kind: &str, name: &str, rest: &Value) -> Arc<Obj> {
        let mut body = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop"}});
        evenkeel_api::json::merge(&mut body, rest);
        Arc::new(Obj::from_json(body).unwrap())
    }

    fn policy(name: &str, limit: &str) -> Arc<Obj> {
        let spec = json!({"selector": {"all": true}, "breakGlass": {"maxDuration": limit}});
        obj("ErrorBudgetPolicy", name, &json!({"spec": spec}))
    }

    fn canary(glass: &str) -> Arc<Obj> {
        let used = json!({"name": glass, "author": "kim", "reason": "payment fix",
            "expires": "2026-03-01T04:00:00Z", "slo": "shop/api/requests"});
        obj("Canary", "api", &json!({"status": {"errorBudget": {"breakGlass": used}}}))
    }

    /// Of a glass that is open from 03:00 to 04:00.
    fn told(spec: &Value, policies: &[Arc<Obj>], canaries: &[Arc<Obj>], time: &str) -> String {
        let mut all = json!({"reason": "payment fix", "author": "kim", "classes": ["deploy"],
            "granted": "2026-03-01T03:00:00Z", "expires": "2026-03-01T04:00:00Z"});
        evenkeel_api::json::merge(&mut all, spec);
        let glass = obj("BreakGlass", "fix", &json!({"spec": all}));
        let now = format!("2026-03-01T{time}Z").parse().unwrap();
        let said = Glass::of(&glass, policies, canaries, now);
        format!("{} {}\n{}", said.state, said.needs_attention(), said.lines().join("\n"))
    }

    #[test]
    fn it_is_told_what_it_opens_until_when_and_why_it_does_not() {
        let (one, two) = (policy("one", "4h"), policy("two", "10m"));
        let open = |policies: &[Arc<Obj>], canaries: &[Arc<Obj>]| {
            told(&json!({}), policies, canaries, "03:05:00")
        };
        assert_snapshot!(open(std::slice::from_ref(&one), &[canary("fix"), canary("other")]), @r"
        Open false
          state: open, expires in 55m (04:00:00Z)
          granted by kim: payment fix
          opens Canary/shop/api: without it shop/api/requests holds a release
        ");
        assert_snapshot!(open(&[one.clone(), two.clone()], &[]), @r"
        Open false
          state: open, expires in 55m (04:00:00Z)
          granted by kim: payment fix
          not with ErrorBudgetPolicy/two: spec.expires must be after spec.granted, and by 10m at most, which is the policy's spec.breakGlass.maxDuration
          opens nothing: no Canary of its namespace needs it at present
        ");
        assert_snapshot!(open(&[], &[]), @r"
        Open false
          state: open, expires in 55m (04:00:00Z)
          granted by kim: payment fix
          opens nothing: there is no valid ErrorBudgetPolicy in its namespace, so no release is held
        ");
        assert_snapshot!(open(&[two], &[canary("fix")]), @r"
        NoEffect true
          state: it has no effect
            because   spec.expires must be after spec.granted, and by 10m at most, which is the policy's spec.breakGlass.maxDuration
        ");
        let ones = [one];
        let changed = |spec: Value| told(&spec, &ones, &[], "03:05:00");
        assert_snapshot!(changed(json!({"author": null})), @r"
        NoEffect true
          state: it has no effect
            because   spec.author is missing: give it
        ");
        assert_snapshot!(changed(json!({"classes": ["config"]})), @r"
        Open false
          state: open, expires in 55m (04:00:00Z)
          granted by kim: payment fix
          opens nothing: its classes have no deploy, which is what releases are
        ");
        assert_snapshot!(told(&json!({}), &ones, &[], "02:05:00"), @r"
        NotYet false
          state: not open yet, opens in 55m (03:00:00Z)
          granted by kim: payment fix
        ");
        assert_snapshot!(told(&json!({}), &ones, &[], "04:05:00"), @r"
        Expired false
          state: expired 5m ago (04:00:00Z)
          granted by kim: payment fix
        ");
    }
}
