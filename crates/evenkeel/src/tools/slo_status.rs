use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use evenkeel_api::{
    GroupKind, Obj,
    slo::{PrometheusServiceLevel, SloMaintenance},
};
use evenkeel_base::Clock as _;
use evenkeel_control::{ListQuery, Read as _};
use evenkeel_live::{RealTime, connect};
use evenkeel_slo::{
    Input, Options, Severity, Slo,
    budget::{Exclusion, Exclusions},
    controller::{SloStatusObject, Tracker},
    has_errors, load,
    policy::{ErrorBudgetPolicy, Signal, State, step},
    status::{StatusInput, StatusOptions, status},
};
use evenkeel_telemetry::shell::PrometheusClient;

use super::slo::{read, tell};
use crate::{
    cli::{Output, SloStatusArgs},
    io,
};

/// Distance of the looks at the last hour.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Longest wait for one answer: thirty days of many series.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is shown, and what the cluster knows about it.
#[derive(Default)]
struct Subject {
    inputs: Vec<Input>,
    /// State by SLO id, as the controller's policy has it.
    states: BTreeMap<String, State>,
    maintenances: Vec<Obj>,
}

/// Runs `evenkeel slo status`.
pub(super) fn run(args: &SloStatusArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(args))
}

async fn show(args: &SloStatusArgs) -> anyhow::Result<ExitCode> {
    let subject = if args.files.is_empty() {
        of_cluster(args).await?
    } else {
        Subject { inputs: read(&args.files)?, ..Subject::default() }
    };
    let mut findings = Vec::new();
    let loaded = load(&subject.inputs, &Options::default(), &mut findings);
    // What else there is to say about a manifest is for `slo lint`.
    findings.retain(|finding| finding.severity == Severity::Error);
    tell(&findings);
    if has_errors(&findings) && loaded.groups.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let metrics = PrometheusClient::new(&args.prometheus)
        .with_context(|| format!("--prometheus {}", args.prometheus))?
        .with_timeout(PATIENCE);
    let now = RealTime::start().now();
    let mut trackers = Vec::new();
    for slo in loaded.groups.iter().flat_map(|group| &group.slos) {
        let Some(mut tracker) = Tracker::new(slo) else {
            io::complain(&format!("warning: {}: its budget cannot be counted", slo.id));
            continue;
        };
        tracker.advance(&metrics, now, LOOK_EVERY).await.with_context(|| {
            format!("{}: the counters at {} (--prometheus)", slo.id, args.prometheus)
        })?;
        trackers.push((tracker, exclusions(&subject.maintenances, slo)));
    }
    let policy = ErrorBudgetPolicy::built_in();
    let options = StatusOptions { now, ..StatusOptions::default() };
    let mut inputs = Vec::new();
    for (tracker, exclusions) in &trackers {
        if tracker.histories().is_empty() {
            let id = &tracker.slo().id;
            io::complain(&format!(
                "warning: {id}: no series of its queries at {}",
                args.prometheus
            ));
        }
        for (key, history) in tracker.histories() {
            let standing = history.standing(now, exclusions, options.stale_after);
            let signal = Signal::observe(&policy, history, &standing);
            let alone = || step(&policy, None, &signal, now).state;
            let state = subject.states.get(&key.id).copied().unwrap_or_else(alone);
            inputs.push(StatusInput {
                slo: tracker.slo(),
                key,
                history,
                exclusions,
                state: Some(state),
            });
        }
    }
    let report = status(&inputs, &options);
    match args.output {
        Output::Json => io::print(&serde_json::to_string_pretty(&report)?),
        Output::Yaml => io::print(&serde_saphyr::to_string(&report)?),
        Output::Table => {
            let (titles, rows) = report.table();
            let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
            io::print(&io::table(&titles, &rows));
        }
    }
    let all_known = inputs.len() >= trackers.len() && !trackers.is_empty();
    let fine = all_known && !report.failed();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The SLOs of a cluster, with what their status and maintenances say.
async fn of_cluster(args: &SloStatusArgs) -> anyhow::Result<Subject> {
    let store = connect(args.kubeconfig.as_deref())
        .await
        .context("name SLO manifests, or a cluster with --kubeconfig")?;
    let slos = ListQuery::all(GroupKind::of::<PrometheusServiceLevel>());
    let slos = store.list(&slos).await.context("list the cluster's SLOs")?.items;
    if slos.is_empty() {
        bail!("the cluster has no PrometheusServiceLevel: apply one, or name manifests here");
    }
    let maintenances = ListQuery::all(GroupKind::of::<SloMaintenance>());
    let maintenances = store.list(&maintenances).await.map_or_else(|_| Vec::new(), |l| l.items);
    let mut subject = Subject {
        maintenances: maintenances.iter().map(|obj| (**obj).clone()).collect(),
        ..Subject::default()
    };
    for obj in slos {
        let known = obj.json().get("status").cloned().unwrap_or_default();
        let known: SloStatusObject = serde_json::from_value(known).unwrap_or_default();
        subject.states.extend(known.slos.into_iter().map(|slo| (slo.id, slo.state)));
        let (name, text) = (obj.key().to_string(), obj.json().to_string());
        subject.inputs.push(Input { name, text });
    }
    Ok(subject)
}

fn exclusions(maintenances: &[Obj], slo: &Slo) -> Exclusions {
    let specs = maintenances.iter().filter_map(|obj| obj.json().get("spec"));
    let of = specs.filter(|spec| Exclusion::concerns(spec, slo));
    Exclusions::new(of.filter_map(|spec| Exclusion::from_spec(spec).ok()).collect())
}
