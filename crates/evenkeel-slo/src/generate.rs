//! `evenkeel slo generate`: from manifests to rules.

use std::collections::BTreeMap;

use crate::duration::PromDuration;
use crate::finding::{Finding, Severity, has_errors};
use crate::model::{Labels, Metadata, PluginRef, Slo, SloGroup, SpecKind, merge};
use crate::number::go_g;
use crate::plugin::{SloPlugin, resolve_chain};
use crate::query::{Checker, Dialect};
use crate::render::{RuleSet, to_yaml};
use crate::rules::{Info, RuleGroup, budget_series, build};
use crate::spec::{
    DocumentKind, Input, Parsed, ReadOptions, Reading, add_lines, parse_all, read_group,
};
use crate::validate::Queries;
use crate::windows::{AlertWindows, Catalogue};
use crate::{reasons, spec, validate};

/// Settings of a run, with Sloth's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Window of SLOs that name none.
    pub default_window: PromDuration,
    /// Alert windows; `AlertWindows` documents among the inputs are added.
    pub catalogue: Catalogue,
    /// Labels for every recorded series.
    pub extra_labels: Labels,
    /// What to leave out.
    pub skip: Skip,
    /// Plugins for every SLO.
    pub plugins: Vec<PluginRef>,
    /// How lenient to be; see [`Reading`].
    pub reading: Reading,
    /// Value of the label `sloth_version`.
    pub version: String,
    /// Who generates, for the label `sloth_mode`.
    pub mode: Mode,
    /// Adds a group with `slo_error_budget_remaining_ratio` for every SLO.
    pub budget_series: bool,
}

/// Parts that are not generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip {
    /// No recording rules.
    pub recordings: bool,
    /// No page and ticket alerts.
    pub alerts: bool,
    /// Only plugins that are declared.
    pub default_plugins: bool,
}

/// Who generates rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The command line.
    Cli,
    /// The controller; its objects are owned by their source.
    Controller,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_window: PromDuration::from_days(30),
            catalogue: Catalogue::default(),
            extra_labels: Labels::new(),
            skip: Skip::default(),
            plugins: Vec::new(),
            reading: Reading::Lenient,
            // What an unversioned build of Sloth writes, and its published examples have.
            version: "dev".to_owned(),
            mode: Mode::Cli,
            budget_series: false,
        }
    }
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Output {
    /// One per document.
    pub sets: Vec<RuleSet>,
    /// The SLOs behind the rules.
    pub groups: Vec<SloGroup>,
    /// Warnings and remarks; no errors.
    pub findings: Vec<Finding>,
    version: String,
}

impl Output {
    /// The rules as YAML, one document per source document.
    pub fn to_yaml(&self) -> String {
        to_yaml(&self.sets, &self.version)
    }

    /// Number of rules in all.
    pub fn rules(&self) -> usize {
        self.sets.iter().flat_map(|s| &s.groups).map(|g| g.rules.len()).sum()
    }
}

/// Everything read from the inputs.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// SLOs per document.
    pub groups: Vec<SloGroup>,
    /// The catalogue of the options with what the inputs add.
    pub catalogue: Catalogue,
}

/// Reads the inputs without generating anything.
pub fn load(inputs: &[Input], options: &Options, findings: &mut Vec<Finding>) -> Loaded {
    let parsed = parse_all(inputs, findings);
    let loaded = load_parsed(&parsed, options, findings);
    add_lines(&parsed, findings);
    loaded
}

pub(crate) fn load_parsed(
    parsed: &[Parsed],
    options: &Options,
    findings: &mut Vec<Finding>,
) -> Loaded {
    let how = ReadOptions { reading: options.reading, default_window: options.default_window };
    let mut catalogue = options.catalogue.clone();
    let mut groups = Vec::new();
    for document in parsed {
        if document.kind == DocumentKind::AlertWindows {
            if let Some(windows) = spec::read_windows(document, findings) {
                catalogue.insert(windows);
            }
        } else if let Some(group) = read_group(document, parsed, how, findings) {
            groups.push(group);
        }
    }
    Loaded { groups, catalogue }
}

/// Generates the rules of every SLO in the inputs. `Err`: every finding, at least one an error.
pub fn generate(inputs: &[Input], options: &Options) -> Result<Output, Vec<Finding>> {
    let mut findings = Vec::new();
    let parsed = parse_all(inputs, &mut findings);
    let loaded = load_parsed(&parsed, options, &mut findings);
    let mut sets = Vec::with_capacity(loaded.groups.len());
    let mut run = Run::new(&loaded.catalogue, options);
    for group in &loaded.groups {
        sets.extend(run.group(group, &mut findings));
    }
    report_duplicates(&loaded.groups, Severity::Warning, &mut findings);
    add_lines(&parsed, &mut findings);
    if sets.iter().all(|s| s.groups.is_empty()) && !has_errors(&findings) {
        findings.push(Finding {
            severity: Severity::Error,
            reason: reasons::NO_RULES,
            source: inputs.first().map_or_else(String::new, |i| i.name.clone()),
            line: None,
            object: "input".to_owned(),
            field: String::new(),
            message: "0 SLO Prometheus rules generated".to_owned(),
            fix: "give a file with SLOs whose rules are not all disabled".to_owned(),
        });
    }
    if has_errors(&findings) {
        return Err(findings);
    }
    Ok(Output { sets, groups: loaded.groups, findings, version: options.version.clone() })
}

/// Generates the rules of one document. `None` after an error among the findings.
pub fn generate_group(
    group: &SloGroup,
    catalogue: &Catalogue,
    options: &Options,
    findings: &mut Vec<Finding>,
) -> Option<RuleSet> {
    Run::new(catalogue, options).group(group, findings)
}

/// What is the same for every SLO of a run.
struct Run<'a> {
    catalogue: &'a Catalogue,
    options: &'a Options,
    defaults: Vec<SloPlugin>,
    checker: Checker,
}

impl<'a> Run<'a> {
    fn new(catalogue: &'a Catalogue, options: &'a Options) -> Self {
        let defaults = default_chain(options);
        Self { catalogue, options, defaults, checker: Checker::default() }
    }

    fn group(&mut self, group: &SloGroup, findings: &mut Vec<Finding>) -> Option<RuleSet> {
        let before = findings.len();
        report_repeated(group, findings);
        let mut groups: Vec<RuleGroup> = Vec::with_capacity(group.slos.len() * 3);
        for slo in &group.slos {
            groups.extend(self.slo(slo, group, findings).unwrap_or_default());
        }
        let failed = findings.iter().skip(before).any(|f| f.severity == Severity::Error);
        (!failed).then(|| RuleSet {
            source: group.source.clone(),
            object: (group.kind == SpecKind::Kubernetes)
                .then(|| object_metadata(&group.metadata, self.options.mode)),
            slos: group.slos.len(),
            groups,
        })
    }

    /// Sloth's words where its verdict is asked for, and ours otherwise.
    fn said(&self, slo: &Slo, sloth: &str, ours: String) -> String {
        match self.options.reading {
            Reading::Sloth => format!("invalid slo {:?}: {sloth}", slo.id),
            Reading::Lenient => ours,
        }
    }

    fn slo(
        &mut self,
        slo: &Slo,
        group: &SloGroup,
        findings: &mut Vec<Finding>,
    ) -> Option<Vec<RuleGroup>> {
        let options = self.options;
        let mut slo = slo.clone();
        slo.labels = merge(&[&slo.labels, &options.extra_labels]);
        let at = At { group, slo: &slo };
        let chain = match resolve_chain(&self.defaults, &options.plugins, &slo.plugins) {
            Ok(chain) => chain,
            Err((index, error)) => {
                let own = index.and_then(|i| slo.plugins.plugins.get(i));
                let field = own.map_or_else(|| at.field("plugins"), |p| p.path.clone());
                let message = self.said(&slo, &error.to_string(), error.to_string());
                findings.push(at.finding(
                    Severity::Error,
                    error.reason(),
                    field,
                    (message, error.fix()),
                ));
                return None;
            }
        };
        let mut queries = Queries { dialect: dialect_of(&chain), checker: &mut self.checker };
        if let Err(refusal) = validate::check(&slo, at.written_name(), &mut queries) {
            let field = at.field(refusal.field);
            let fix = at.fix(&refusal).to_owned();
            let message = self.said(&slo, &refusal.sloth, at.message(&refusal));
            findings.push(at.finding(Severity::Error, reasons::INVALID_SLO, field, (message, fix)));
            return None;
        }
        let Some(windows) = self.catalogue.get(slo.window) else {
            let message = format!("SLO period {} time window is not supported", slo.window);
            let fix = format!(
                "use one of {}, or add an AlertWindows document with sloPeriod {}",
                self.catalogue.periods(),
                slo.window
            );
            let field = at.field("window");
            findings.push(at.finding(
                Severity::Error,
                reasons::UNKNOWN_PERIOD,
                field,
                (message, fix),
            ));
            return None;
        };
        at.advise(windows, findings);
        let info = Info {
            version: options.version.clone(),
            mode: mode_label(options.mode, group.kind).to_owned(),
            spec: group.kind,
        };
        match build(&slo, windows, &info, &chain) {
            Ok(rules) => {
                let mut groups = rules.into_groups();
                if options.budget_series {
                    groups.extend(budget_series(&slo));
                }
                Some(groups)
            }
            Err(message) => {
                let message = self.said(&slo, &message.clone(), message);
                let fix = "correct the SLO's plugins or window".to_owned();
                let field = at.field("");
                findings.push(at.finding(
                    Severity::Error,
                    reasons::PLUGIN_REFUSED,
                    field,
                    (message, fix),
                ));
                None
            }
        }
    }
}

/// Makes findings about one SLO.
struct At<'a> {
    group: &'a SloGroup,
    slo: &'a Slo,
}

impl At<'_> {
    fn is_openslo(&self) -> bool {
        matches!(self.group.kind, SpecKind::OpenSloV1Alpha | SpecKind::OpenSloV1)
    }

    /// The name in the document; `OpenSLO` has one for all objectives.
    fn written_name(&self) -> &str {
        if self.is_openslo() { &self.group.metadata.name } else { &self.slo.name }
    }

    /// What a refusal says, in the units of the document's kind.
    fn message(&self, refusal: &validate::Refusal) -> String {
        match refusal.field {
            "objective" if self.is_openslo() => {
                let target = go_g(self.slo.objective / 100.0);
                format!("must be above 0 and at most 1, not {target}")
            }
            _ => refusal.message.clone(),
        }
    }

    /// What to do about a refusal, in the units of the document's kind.
    fn fix(&self, refusal: &validate::Refusal) -> &'static str {
        match refusal.field {
            "objective" if self.is_openslo() => "give a ratio such as 0.999",
            _ => refusal.fix,
        }
    }

    /// The field of the document that stands for a part of the SLO.
    fn field(&self, below: &str) -> String {
        let (slo, is_openslo) = (self.slo, self.is_openslo());
        let sli = below.strip_prefix("sli").map(|kind| kind.trim_start_matches('.'));
        match (below, sli) {
            ("service", _) if is_openslo => "spec.service".to_owned(),
            ("service", _) => {
                let top = slo.path.split("slos[").next().unwrap_or("");
                format!("{top}service")
            }
            (_, Some(kind)) if is_openslo || kind.is_empty() => slo.sli_path.clone(),
            (_, Some(kind)) => format!("{}.{kind}", slo.sli_path),
            ("objective", _) if is_openslo => format!("{}.target", slo.path),
            ("name", _) if is_openslo => "metadata.name".to_owned(),
            ("window", _) => match self.group.kind {
                SpecKind::OpenSloV1Alpha => "spec.timeWindows".to_owned(),
                SpecKind::OpenSloV1 => "spec.timeWindow".to_owned(),
                _ if slo.own_window => format!("{}.window", slo.path),
                _ => slo.path.clone(),
            },
            ("groupBy", _) if self.group.kind == SpecKind::File => format!("{}.group_by", slo.path),
            ("", _) => slo.path.clone(),
            _ if is_openslo => slo.path.clone(),
            (below, _) => format!("{}.{below}", slo.path),
        }
    }

    fn finding(
        &self,
        severity: Severity,
        reason: &'static str,
        field: String,
        (message, fix): (String, String),
    ) -> Finding {
        Finding {
            severity,
            reason,
            source: self.group.source.clone(),
            line: None,
            object: self.group.object.clone(),
            field,
            message,
            fix,
        }
    }

    /// What Sloth accepts without a word although it cannot do what it seems to do.
    fn advise(&self, windows: &AlertWindows, findings: &mut Vec<Finding>) {
        let slo = self.slo;
        let mut say = |severity, reason, field, message: String, fix: &str| {
            let field = self.field(field);
            findings.push(self.finding(severity, reason, field, (message, fix.to_owned())));
        };
        if slo.objective >= 100.0 {
            let message = "an objective of 100 leaves no error budget: the first error uses it up";
            let fix = "choose an objective below 100";
            say(Severity::Warning, reasons::NO_BUDGET, "objective", message.to_owned(), fix);
        }
        let alerts = [
            ("page", slo.page_alert.is_some(), windows.page),
            ("ticket", slo.ticket_alert.is_some(), windows.ticket),
        ];
        for (name, enabled, pair) in alerts {
            for (which, window) in [("quick", pair.quick), ("slow", pair.slow)] {
                let least = window.factor(windows.slo_period) * slo.budget_ratio();
                if !enabled || least < 1.0 {
                    continue;
                }
                let message = format!(
                    "the {which} half of the {name} alert cannot fire: it needs an error ratio \
                     above {least:.2}"
                );
                let fix = "raise the objective, or use an AlertWindows catalogue with lower \
                           percentages";
                say(Severity::Warning, reasons::ALERT_CANNOT_FIRE, "objective", message, fix);
            }
        }
        for label in &slo.group_by {
            let queries = slo.sli.events.iter().flat_map(|e| [&e.error_query, &e.total_query]);
            if queries.chain(&slo.sli.raw).any(|q| !q.contains(label.as_str())) {
                let message =
                    format!("a query never mentions {label}, so its result has no such label");
                let fix = format!("aggregate with sum by ({label}) (...)");
                say(Severity::Error, reasons::GROUP_LABEL_LOST, "groupBy", message, &fix);
            }
        }
    }
}

fn default_chain(options: &Options) -> Vec<SloPlugin> {
    if options.skip.default_plugins {
        return Vec::new();
    }
    let mut chain = vec![SloPlugin::Validate(Dialect::PromQl)];
    if !options.skip.recordings {
        chain.push(SloPlugin::SliRules { optimized: true });
        chain.push(SloPlugin::MetadataRules);
    }
    if !options.skip.alerts {
        chain.push(SloPlugin::AlertRules);
    }
    chain
}

/// The strictest check of the chain. Without any, `PromQL` is checked all the same: rules that
/// no server loads are of no use.
fn dialect_of(chain: &[SloPlugin]) -> Dialect {
    let mut found = chain.iter().filter_map(|p| match p {
        SloPlugin::Validate(dialect) => Some(*dialect),
        _ => None,
    });
    let first = found.next().unwrap_or(Dialect::PromQl);
    if found.any(|d| d == Dialect::PromQl) { Dialect::PromQl } else { first }
}

fn mode_label(mode: Mode, kind: SpecKind) -> &'static str {
    match (mode, kind) {
        (Mode::Cli, SpecKind::File) => "cli-gen-prom",
        (Mode::Cli, SpecKind::Kubernetes) => "cli-gen-k8s",
        (Mode::Cli, SpecKind::OpenSloV1Alpha | SpecKind::OpenSloV1) => "cli-gen-openslo",
        (Mode::Controller, _) => "ctrl-gen-k8s",
    }
}

/// Same name and namespace as the source, its labels and annotations, and Sloth's own labels.
fn object_metadata(source: &Metadata, mode: Mode) -> Metadata {
    let own = Labels::from([
        ("app.kubernetes.io/component".to_owned(), "SLO".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "sloth".to_owned()),
    ]);
    Metadata {
        labels: merge(&[&source.labels, &own]),
        uid: if mode == Mode::Controller { source.uid.clone() } else { String::new() },
        ..source.clone()
    }
}

/// Two SLOs of one document with one id are an error, as in Sloth.
fn report_repeated(group: &SloGroup, findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<&str, &Slo> = BTreeMap::new();
    for slo in &group.slos {
        if let Some(first) = seen.insert(&slo.id, slo) {
            let at = At { group, slo };
            let message = format!("SLO id {:?} is already used by {}", slo.id, first.path);
            let fix = "rename one of them".to_owned();
            let field = at.field("name");
            findings.push(at.finding(
                Severity::Error,
                reasons::DUPLICATE_ID,
                field,
                (message, fix),
            ));
        }
    }
}

/// The same id in two documents; Sloth's `validate` refuses it, its `generate` does not.
pub(crate) fn report_duplicates(
    groups: &[SloGroup],
    severity: Severity,
    findings: &mut Vec<Finding>,
) {
    let mut seen: BTreeMap<&str, &SloGroup> = BTreeMap::new();
    for group in groups {
        for slo in &group.slos {
            let Some(first) = seen.get(slo.id.as_str()) else {
                seen.insert(&slo.id, group);
                continue;
            };
            if std::ptr::eq(*first, group) {
                continue;
            }
            let at = At { group, slo };
            let message = format!("SLO id {:?} is already used in {}", slo.id, first.source);
            let fix = "rename one of them, or their series mix".to_owned();
            let field = at.field("name");
            findings.push(at.finding(severity, reasons::DUPLICATE_ID, field, (message, fix)));
        }
    }
}
