//! What a session says, and how either side does it.

use serde_json::{Value, json};

use crate::{folder, normal};

/// A control plane.
pub(crate) trait Side {
    /// Creates the objects, or changes them to what is given.
    fn apply(&mut self, objects: Vec<Value>);
    /// Merges into an object, or into its status.
    fn patch(&mut self, target: (&str, &str), patch: &Value, is_status: bool);
    fn delete(&mut self, target: (&str, &str), propagation: &str);
    /// All objects of a kind.
    fn list(&mut self, kind: &str) -> Vec<Value>;
    /// The time, to the second.
    fn now(&self) -> String;
    /// Lets this many seconds pass.
    fn wait(&mut self, seconds: u64);
    /// Lets the controllers finish what they are doing.
    fn settle(&mut self);
}

/// One line of a session.
pub(crate) enum Command<'a> {
    /// `apply FILE`.
    Apply(&'a str),
    /// `patch KIND/NAME JSON`.
    Patch((&'a str, &'a str), Value),
    /// `delete KIND/NAME [Foreground|Orphan]`.
    Delete((&'a str, &'a str), &'a str),
    /// `pods STATE WHICH...`: how the pods fare that are named, or that have a label or annotation
    /// `KEY=VALUE`; `NUMBER*` before takes that many of them.
    Pods(&'a str, Vec<&'a str>),
    /// `wait SECONDS`.
    Wait(u64),
    /// `minute`: until some seconds after the next full minute.
    Minute,
    /// `show KIND [POINTER...]`: all objects of a kind, or these parts of them.
    Show(&'a str, Vec<&'a str>),
}

impl<'a> Command<'a> {
    pub(crate) fn parse(line: &'a str) -> Self {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match verb {
            "apply" => Self::Apply(rest),
            "patch" => {
                let (target, patch) = rest.split_once(' ').unwrap();
                Self::Patch(target.split_once('/').unwrap(), serde_json::from_str(patch).unwrap())
            }
            "delete" => {
                let how = words.get(1).copied().unwrap_or("Background");
                Self::Delete(words[0].split_once('/').unwrap(), how)
            }
            "pods" => Self::Pods(words[0], words[1..].to_vec()),
            "wait" => Self::Wait(rest.parse().unwrap()),
            "minute" => Self::Minute,
            "show" => Self::Show(words[0], words[1..].to_vec()),
            other => panic!("no such command: {other}"),
        }
    }
}

/// Carries a command out; what it shows.
pub(crate) fn run(side: &mut dyn Side, command: &Command<'_>) -> String {
    match command {
        Command::Apply(file) => {
            let text = std::fs::read_to_string(folder().join("files").join(file)).unwrap();
            let documents = evenkeel_yaml::split(&text).unwrap();
            side.apply(documents.iter().map(|one| one.parse().unwrap().json().unwrap()).collect());
        }
        Command::Patch(target, patch) => side.patch(*target, patch, false),
        Command::Delete((kind, which), propagation) => {
            for name in chosen(side, which, "") {
                side.delete((kind, &name), propagation);
            }
        }
        Command::Pods(state, which) => {
            let names: Vec<String> =
                which.iter().flat_map(|which| chosen(&mut *side, which, state)).collect();
            for name in names {
                if *state == "Released" {
                    let patch = json!({"metadata": {"finalizers": null}});
                    side.patch(("pod", &name), &patch, false);
                } else {
                    let now = side.now();
                    side.patch(("pod", &name), &status(state, &now), true);
                }
            }
        }
        Command::Wait(seconds) => side.wait(*seconds),
        Command::Minute => {
            let now: jiff::Timestamp = side.now().parse().unwrap();
            let left = 62 - now.as_second().rem_euclid(60);
            side.wait(left.try_into().unwrap());
        }
        Command::Show(kind, pointers) => return normal::show(&side.list(kind), pointers),
    }
    side.settle();
    String::new()
}

/// Names of the pods that are meant: those that have not ended, and are not in the state already.
fn chosen(side: &mut dyn Side, which: &str, state: &str) -> Vec<String> {
    let (count, which) = which.split_once('*').unwrap_or(("1000", which));
    let Some((key, value)) = which.split_once('=') else { return vec![which.to_owned()] };
    let mut names: Vec<String> = Vec::new();
    for pod in side.list("pods") {
        let has = |map: &str| pod["metadata"][map][key] == value;
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|one| one["type"] == "Ready" && one["status"] == "True");
        let is_over = matches!(phase, "Succeeded" | "Failed") || (state == "Ready" && ready);
        if (has("labels") || has("annotations")) && !is_over {
            names.push(pod["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    names.sort();
    names.truncate(count.parse().unwrap());
    assert!(!names.is_empty(), "no pod is {which}");
    names
}

/// What a kubelet would report. `Failed:3` is an exit code.
fn status(state: &str, now: &str) -> Value {
    let (phase, code) = state.split_once(':').unwrap_or((state, "1"));
    let ready =
        |status: &str| json!([{"type": "Ready", "status": status, "lastTransitionTime": now}]);
    match phase {
        "Ready" => json!({"phase": "Running", "conditions": ready("True")}),
        "Running" => json!({"phase": "Running", "conditions": ready("False")}),
        "Succeeded" => json!({"phase": "Succeeded", "conditions": ready("False")}),
        "Failed" => {
            let code: i32 = code.parse().unwrap();
            let ended = json!({"exitCode": code, "reason": "Error", "finishedAt": now});
            let container = json!({"name": "main", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"terminated": ended}});
            json!({"phase": "Failed", "conditions": ready("False"),
                "containerStatuses": [container]})
        }
        other => panic!("no such state: {other}"),
    }
}
