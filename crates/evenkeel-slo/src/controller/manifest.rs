use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::Obj;

use crate::{
    finding::{Finding, has_errors},
    generate::{Mode, Options, generate, load},
    model::Slo,
    render::RuleSet,
    spec::Input,
};

/// What is written in an object, read once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manifest {
    pub(super) generation: i64,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    /// Its rules; `None` after an error.
    pub(crate) rules: Option<RuleSet>,
    /// What reading it had to say.
    pub(crate) findings: Vec<Finding>,
    pub(super) slos: Vec<Slo>,
}

impl Manifest {
    /// Whether it is still what stands in the object.
    pub(super) fn is_of(&self, obj: &Obj) -> bool {
        let none = BTreeMap::new();
        let meta = obj.meta();
        self.generation == obj.generation()
            && self.labels == *meta.labels.as_ref().unwrap_or(&none)
            && self.annotations == *meta.annotations.as_ref().unwrap_or(&none)
    }
}

/// The SLOs and rules of an object, and everything there is to say about it.
pub(super) fn read(obj: &Obj) -> Arc<Manifest> {
    let input = Input { name: obj.key().to_string(), text: obj.json().to_string() };
    let options = Options {
        mode: Mode::Controller,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Options::default()
    };
    let inputs = [input];
    let (group, rules, findings) = match generate(&inputs, &options) {
        Ok(mut output) => (output.groups.pop(), output.sets.pop(), output.findings),
        Err(findings) => {
            // The budget of what can be read is counted all the same.
            let mut read = Vec::new();
            let group = load(&inputs, &options, &mut read).groups.pop();
            (group.filter(|_| !has_errors(&read)), None, findings)
        }
    };
    Arc::new(Manifest {
        generation: obj.generation(),
        labels: obj.meta().labels.clone().unwrap_or_default(),
        annotations: obj.meta().annotations.clone().unwrap_or_default(),
        rules,
        findings,
        slos: group.map_or_else(Vec::new, |group| group.slos),
    })
}
