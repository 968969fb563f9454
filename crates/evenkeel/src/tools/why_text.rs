//! What `evenkeel why` prints for people: a short block that says what the state is, since when,
//! and what is next. Times are printed twice: how long ago, and when.

use evenkeel_api::{Key, Obj};
use evenkeel_control::Pass;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    why_glass::{Glass, used_by},
    why_time::{moment, span},
};

/// Events shown, the last ones: enough to see what was done, and how it began.
pub(super) const EVENTS_MAX: usize = 5;

/// The leader of a domain.
pub(super) struct Leader {
    pub(super) holder: String,
    pub(super) renewed: String,
    /// Whether it has not renewed its Lease in time: then no process acts.
    pub(super) is_late: bool,
    pub(super) url: Option<String>,
    /// The pod that the Lease names, as NAMESPACE/NAME.
    pub(super) pod: Option<String>,
    /// Whether its process has told its decisions.
    pub(super) answers: bool,
}

impl Leader {
    /// Whether some process holds the Lease now.
    pub(super) fn leads(&self) -> bool {
        !self.is_late && !self.holder.is_empty()
    }
}

/// All that is printed.
pub(super) struct Explanation<'a> {
    pub(super) now: Timestamp,
    pub(super) key: &'a Key,
    pub(super) obj: &'a Obj,
    /// How its budgets stand, when it is an SLO.
    pub(super) slos: &'a [String],
    /// The domain that decides about it, if one does.
    pub(super) decider: Option<&'a str>,
    pub(super) passes: &'a [Pass],
    pub(super) leaders: &'a [(&'a str, Leader)],
    /// Its last Events, oldest first.
    pub(super) events: &'a [Value],
    /// What it opens, when it is a `BreakGlass`.
    pub(super) glass: Option<&'a Glass>,
}

impl Explanation<'_> {
    pub(super) fn text(&self) -> String {
        let mut lines = vec![named(self.key)];
        lines.extend(self.state());
        lines.extend(self.slos.iter().cloned());
        lines.extend(used_by(self.obj));
        lines.extend(self.glass.map(Glass::lines).into_iter().flatten().cloned());
        let silent = self.silent();
        lines.extend(silent.clone());
        for pass in self.passes {
            self.pass(pass, &mut lines);
        }
        // Nothing is done about a `BreakGlass` itself.
        if self.passes.is_empty() && self.glass.is_none() && silent.is_none() {
            let text = if *self.key.kind.kind == *"SloMaintenance" {
                "  nothing is done about it itself: it counts when its SLOs are looked at (see `why \
                 slo/NAME`)"
            } else {
                "  no reachable controller has processed it"
            };
            lines.push(text.to_owned());
        }
        self.conditions(&mut lines);
        self.events(&mut lines);
        self.leaders(&mut lines);
        lines.push(String::new());
        lines.join("\n")
    }

    /// What is said when the one who decides about it does not answer.
    fn silent(&self) -> Option<String> {
        let (domain, _) = self
            .leaders
            .iter()
            .find(|(domain, leader)| Some(*domain) == self.decider && !leader.answers)?;
        let follows = if self.passes.is_empty() {
            "what follows is from the object alone"
        } else {
            "what it decided is missing here"
        };
        Some(format!("  the leader of {domain} does not answer: {follows}"))
    }

    /// Phase, weight and the message of the condition about it, in one line.
    fn state(&self) -> Option<String> {
        let status = self.obj.json().get("status")?;
        let phase = status.get("phase").and_then(Value::as_str).filter(|it| !it.is_empty())?;
        let weight = status.get("canaryWeight").and_then(Value::as_i64);
        let weight = weight.map(|weight| format!(", weight {weight} %")).unwrap_or_default();
        let words = conditions(self.obj).find(|condition| text(condition, "type") == "Promoted");
        let words = words.map(|condition| format!(": {}", text(condition, "message")));
        Some(format!("  state: {phase}{weight}{}", words.unwrap_or_default()))
    }

    fn pass(&self, pass: &Pass, lines: &mut Vec<String>) {
        let result = result_words(&pass.result);
        let result = result.map(|words| format!(" ({words})")).unwrap_or_default();
        let since = self.moment(pass.since);
        lines.push(format!("  {}: {}{result}, since {since}", pass.controller, pass.reason));
        for (index, policy) in pass.policies.iter().enumerate() {
            let says = if index == 0 { "held by" } else { "and by" };
            lines.push(format!("    {says:<9} {policy}"));
        }
        if !pass.message.is_empty() && pass.policies.is_empty() {
            let head = if pass.result == "observed" { "observed:" } else { "because  " };
            lines.push(format!("    {head} {}", pass.message));
        }
        let next = pass.next_look.map_or("when something changes".to_owned(), |at| {
            format!("{}, or when something changes", self.moment(at))
        });
        lines.push(format!("    next look {next}"));
        let (at, ms) = (self.moment(pass.at), pass.took_ms);
        lines.push(format!("    last look {at}, took {ms} ms"));
    }

    /// All but the one that the state line shows.
    fn conditions(&self, lines: &mut Vec<String>) {
        let has_phase = self.state().is_some();
        let shown = |condition: &&Value| has_phase && text(condition, "type") == "Promoted";
        let mut others = conditions(self.obj).filter(|condition| !shown(condition)).peekable();
        if others.peek().is_some() {
            lines.push("  conditions:".to_owned());
        }
        for condition in others {
            let since = text(condition, "lastTransitionTime");
            let since = since.parse::<Timestamp>().map(|at| format!(", since {}", self.moment(at)));
            lines.push(format!(
                "    {}={} {}{}: {}",
                text(condition, "type"),
                text(condition, "status"),
                text(condition, "reason"),
                since.unwrap_or_default(),
                text(condition, "message")
            ));
        }
    }

    fn events(&self, lines: &mut Vec<String>) {
        if !self.events.is_empty() {
            lines.push("  last events:".to_owned());
        }
        for event in self.events {
            let at = event_time(event);
            let at = at.map_or("?".to_owned(), |at| span(self.now, at));
            let count = event.get("count").and_then(Value::as_i64).filter(|count| *count > 1);
            let times = count.map(|count| format!(" ({count} times)")).unwrap_or_default();
            let warning = if text(event, "type") == "Warning" { "Warning: " } else { "" };
            lines.push(format!("    {at:>4} ago  {warning}{}{times}", text(event, "message")));
        }
    }

    fn leaders(&self, lines: &mut Vec<String>) {
        for (domain, leader) in self.leaders {
            let led = match &*leader.holder {
                "" => "has no leader".to_owned(),
                holder => format!("is led by {holder}"),
            };
            let renewed = leader.renewed.parse::<Timestamp>();
            let renewed = renewed.map_or(leader.renewed.clone(), |at| self.moment(at));
            lines.push(format!("  {domain} {led}, renewed {renewed}"));
            if leader.is_late {
                lines.push(
                    "    which is too long ago: nobody acts until a process reaches the API server \
                     and leads (its log says why it does not)"
                        .to_owned(),
                );
            }
        }
        if self.leaders.is_empty() {
            lines.push(
                "  no controllers are running in this cluster: start `evenkeel run` (or name the \
                 Leases' namespace with --lease-namespace)"
                    .to_owned(),
            );
        } else if let Some(decider) = self.decider
            && !self.leaders.iter().any(|(domain, _)| *domain == decider)
        {
            lines.push(format!(
                "  no controllers of {decider} are running in this cluster, which decide about it: \
                 start `evenkeel run` (or name the Leases' namespace with --lease-namespace)"
            ));
        }
    }

    fn moment(&self, at: Timestamp) -> String {
        moment(self.now, at)
    }
}

/// `Kind namespace/name`.
pub(super) fn named(key: &Key) -> String {
    if key.namespace.is_empty() {
        return format!("{} {}", key.kind.kind, key.name);
    }
    format!("{} {}/{}", key.kind.kind, key.namespace, key.name)
}

/// What a result means to a person who has to act; `None` where it succeeded.
fn result_words(result: &str) -> Option<&str> {
    Some(match result {
        "done" => return None,
        "observed" => "only observed, nothing is done",
        "held" => "held by a policy",
        "denied" => "denied by a policy",
        "retry" => "did not work, is tried again",
        "refused" => "refused, is tried again slowly",
        "repeated" => "undone again and again",
        "timed-out" => "took too long, is tried again",
        "panicked" => "internal error, is tried again slowly",
        other => other,
    })
}

fn conditions(obj: &Obj) -> impl Iterator<Item = &Value> {
    let conditions = obj.json().pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten()
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// When an Event was last seen.
pub(super) fn event_time(event: &Value) -> Option<Timestamp> {
    let times = ["lastTimestamp", "eventTime", "firstTimestamp"];
    times.into_iter().find_map(|field| text(event, field).parse().ok())
}

#[cfg(test)]
mod tests {
    use evenkeel_api::canary::Canary;
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-03-01T{time}Z").parse().unwrap()
    }

    fn pass(reason: &str) -> Pass {
        Pass {
            controller: "delivery".to_owned(),
            object: "Canary/shop/api".to_owned(),
            at: at("03:04:55.123456789"),
            took_ms: 12,
            result: "done".to_owned(),
            reason: reason.to_owned(),
            since: at("03:04:11.5"),
            message: String::new(),
            policies: Vec::new(),
            next_look: Some(at("03:05:11.5")),
        }
    }

    fn explain(status: &Value, passes: &[Pass], events: &[Value]) -> String {
        let obj = Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "api", "namespace": "shop"}, "status": status}))
        .unwrap();
        let leader = Leader {
            holder: "host-7".to_owned(),
            renewed: "2026-03-01T03:04:58.000001Z".to_owned(),
            is_late: false,
            url: None,
            pod: None,
            answers: true,
        };
        let key = Key::of::<Canary>("shop", "api");
        let leaders = [("delivery", leader)];
        let leaders = if passes.is_empty() { &[][..] } else { &leaders[..] };
        text_of(&key, &obj, passes, leaders, events)
    }

    fn text_of(
        key: &Key,
        obj: &Obj,
        passes: &[Pass],
        leaders: &[(&str, Leader)],
        events: &[Value],
    ) -> String {
        let (now, decider, glass) = (at("03:05:00"), Some("delivery"), None);
        let slos = &[];
        Explanation { now, key, obj, slos, decider, passes, leaders, events, glass }.text()
    }

    #[test]
    fn that_the_one_who_decides_does_not_answer_is_said_first() {
        let obj = Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "api", "namespace": "shop"}, "status": {"phase": "Progressing",
            "canaryWeight": 20}}))
        .unwrap();
        let key = Key::of::<Canary>("shop", "api");
        let leader = |answers: bool| {
            let renewed = "2026-03-01T03:04:58Z".to_owned();
            Leader { holder: "a".into(), renewed, is_late: false, url: None, pod: None, answers }
        };
        let (silent, slo) = (("delivery", leader(false)), ("slo", leader(true)));
        let answer = Pass { controller: "slo-answer".to_owned(), ..pass("Answered") };
        assert_snapshot!(text_of(&key, &obj, &[], &[silent], &[]), @r"
        Canary shop/api
          state: Progressing, weight 20 %
          the leader of delivery does not answer: what follows is from the object alone
          delivery is led by a, renewed 2s ago (03:04:58Z)
        ");
        let silent = ("delivery", leader(false));
        let text = text_of(&key, &obj, &[answer], &[silent, slo], &[]);
        let said = "the leader of delivery does not answer: what it decided is missing here";
        assert!(text.contains(said), "{text}");
        let text = text_of(&key, &obj, &[], &[("slo", leader(true))], &[]);
        assert!(text.contains("no controllers of delivery are running in this cluster"), "{text}");
    }

    #[test]
    fn a_wait_is_explained_in_a_few_lines() {
        let status = json!({"phase": "Progressing", "canaryWeight": 20, "conditions": [
            {"type": "Promoted", "status": "Unknown", "reason": "Progressing",
                "message": "New revision detected, progressing canary analysis.",
                "lastTransitionTime": "2026-03-01T03:00:00Z"}]});
        let event = |kind: &str, message: &str, time: &str, count: i64| {
            json!({"type": kind, "message": message, "count": count,
                "lastTimestamp": format!("2026-03-01T{time}Z")})
        };
        let events = [
            event("Normal", "Advance api.shop canary weight 20", "03:04:00", 1),
            event("Warning", "Halt api.shop advancement", "03:04:30", 3),
        ];
        assert_snapshot!(explain(&status, &[pass("IntervalRunning")], &events), @r"
        Canary shop/api
          state: Progressing, weight 20 %: New revision detected, progressing canary analysis.
          delivery: IntervalRunning, since 48s ago (03:04:11Z)
            next look in 11s (03:05:11Z), or when something changes
            last look 4s ago (03:04:55Z), took 12 ms
          last events:
             60s ago  Advance api.shop canary weight 20
             30s ago  Warning: Halt api.shop advancement (3 times)
          delivery is led by host-7, renewed 1s ago (03:04:58Z)
        ");
    }

    #[test]
    fn what_holds_it_comes_first_and_then_when_it_is_looked_at_again() {
        let policies = vec!["freeze: until 12:00".to_owned(), "budget: 3 % left".to_owned()];
        let held = Pass {
            result: "held".to_owned(),
            policies,
            message: "SetWeights: freeze".to_owned(),
            since: "2026-02-27T01:00:00Z".parse().unwrap(),
            ..pass("StepDue")
        };
        let failed = Pass {
            result: "refused".to_owned(),
            message: "httproutes is forbidden".to_owned(),
            next_look: None,
            ..pass("StepDue")
        };
        let conditions = json!({"conditions": [{"type": "Held", "status": "True",
            "reason": "ActionHeld", "message": "delivery: freeze",
            "lastTransitionTime": "2026-03-01T01:00:00Z"}]});
        assert_snapshot!(explain(&conditions, &[held, failed], &[]), @r"
        Canary shop/api
          delivery: StepDue (held by a policy), since 2d ago (2026-02-27T01:00:00Z)
            held by   freeze: until 12:00
            and by    budget: 3 % left
            next look in 11s (03:05:11Z), or when something changes
            last look 4s ago (03:04:55Z), took 12 ms
          delivery: StepDue (refused, is tried again slowly), since 48s ago (03:04:11Z)
            because   httproutes is forbidden
            next look when something changes
            last look 4s ago (03:04:55Z), took 12 ms
          conditions:
            Held=True ActionHeld, since 2h ago (01:00:00Z): delivery: freeze
          delivery is led by host-7, renewed 1s ago (03:04:58Z)
        ");
        assert_snapshot!(explain(&json!({}), &[], &[]), @r"
        Canary shop/api
          no reachable controller has processed it
          no controllers are running in this cluster: start `evenkeel run` (or name the Leases' namespace with --lease-namespace)
        ");
    }
}
