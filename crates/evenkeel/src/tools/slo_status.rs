use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use evenkeel_api::{
    GroupKind, Obj, misfit,
    slo::{PrometheusServiceLevel, SloMaintenance},
};
use evenkeel_base::Clock as _;
use evenkeel_control::{ListQuery, Metrics as _, Read as _, Sample};
use evenkeel_live::{RealTime, connect};
use evenkeel_slo::{
    Finding, Input, Loaded, Options, Severity, Slo,
    budget::{Exclusion, Exclusions, History, SloKey},
    controller::{Sight, SloStatusObject, Tracker},
    has_errors, load,
    policy::{ErrorBudgetPolicy, Signal, State, step},
    status::{StatusInput, StatusOptions, status},
};
use evenkeel_telemetry::shell::PrometheusClient;

use super::slo::{read, report};
use crate::{
    NOT_KNOWN,
    cli::{Output, SloStatusArgs},
    io, paths,
};

/// Where the counters are if no flag names a server and no `evenkeel up` is running.
const PROMETHEUS: &str = "http://127.0.0.1:9090";
/// Distance of the looks at the last hour.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Failures in a row after which the metrics server counts as down.
const FAILURES_MAX: u32 = 4;
/// Longest wait for one answer: thirty days of many series.
const TIMEOUT: Duration = Duration::from_mins(1);

/// What is shown, and what the cluster knows about it.
#[derive(Default)]
struct Subject {
    inputs: Vec<Input>,
    /// Whether they are objects, and no files.
    of_cluster: bool,
    /// State by SLO id, as the controller's policy has it.
    states: BTreeMap<String, State>,
    maintenances: Vec<Obj>,
}

/// Runs `evenkeel slo status`.
pub(super) fn run(args: &SloStatusArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(args))
}

/// Where the counters are: as given, or with a running `evenkeel up` whose cluster is asked.
fn counters(args: &SloStatusArgs) -> anyhow::Result<String> {
    if let Some(url) = &args.prometheus {
        return Ok(url.clone());
    }
    if args.data_dir.is_some() {
        return paths::console_of_up(args.data_dir.as_deref());
    }
    let named = args.kubeconfig.clone().or_else(paths::named_cluster);
    let other = match named {
        // The one that `up` has printed may be named, too.
        Some(named) => !paths::is_of_up(&named),
        None => args.files.is_empty() && paths::has_home_cluster(),
    };
    let running = if other { None } else { paths::running_console() };
    Ok(running.unwrap_or_else(|| PROMETHEUS.to_owned()))
}

async fn show(args: &SloStatusArgs) -> anyhow::Result<ExitCode> {
    let url = counters(args)?;
    let subject = if args.files.is_empty() {
        of_cluster(args).await?
    } else {
        Subject { inputs: read(&args.files)?, ..Subject::default() }
    };
    let (loaded, refused) = loaded(&subject);
    if refused && loaded.groups.is_empty() {
        return Ok(ExitCode::from(NOT_KNOWN));
    }
    let metrics = PrometheusClient::new(&url).context("--prometheus")?.with_timeout(TIMEOUT);
    let time = RealTime::start();
    let (mut shown, mut uncounted) = (Vec::new(), 0);
    for group in &loaded.groups {
        for slo in &group.slos {
            let of = (&*group.metadata.namespace, slo);
            match count(&url, &subject, of, &metrics, &time).await {
                Ok(one) => shown.push(one),
                Err(error) => {
                    let of = &group.object;
                    io::complain(&format!("warning: {of}: {}", io::words(&error)));
                    uncounted += 1;
                }
            }
        }
    }
    let policy = ErrorBudgetPolicy::built_in();
    let now = time.now();
    let options = StatusOptions { now, ..StatusOptions::default() };
    let mut inputs = Vec::new();
    for one in &shown {
        for (key, history) in &one.histories {
            let standing = history.standing(now, &one.exclusions, options.stale_after);
            let signal = Signal::observe(&policy, history, &standing);
            let alone = || step(&policy, None, &signal, now).state;
            // The cluster's policy decides the state; only missing data is seen here.
            let known = subject.states.get(&key.id).copied();
            let known = known.filter(|_| standing.remaining().is_some());
            inputs.push(StatusInput {
                namespace: &one.namespace,
                slo: &one.slo,
                key,
                history,
                exclusions: &one.exclusions,
                state: Some(known.unwrap_or_else(alone)),
                sloth_left: one.sloth_left(key),
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
    if inputs.is_empty() && uncounted > 0 {
        return Ok(ExitCode::from(NOT_KNOWN));
    }
    let fine = !inputs.is_empty() && uncounted == 0 && !refused && !report.failed();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The SLOs that can be read, and whether others cannot, which is said.
fn loaded(subject: &Subject) -> (Loaded, bool) {
    let mut findings = Vec::new();
    let loaded = load(&subject.inputs, &Options::default(), &mut findings);
    // Other findings about a manifest are for `slo lint`.
    findings.retain(|finding| finding.severity == Severity::Error);
    if subject.of_cluster {
        findings = findings.into_iter().map(Finding::of_cluster).collect();
    }
    report(&findings);
    (loaded, has_errors(&findings))
}

/// One SLO with everything about it.
struct Shown {
    /// Of its object; empty when it is of a file that names none.
    namespace: String,
    slo: Slo,
    histories: BTreeMap<SloKey, Arc<History>>,
    exclusions: Exclusions,
    /// What Sloth's rule says, by its labels.
    sloth: Vec<Sample>,
}

impl Shown {
    /// Sloth's figure for one budget, where its rule is recorded.
    fn sloth_left(&self, key: &SloKey) -> Option<f64> {
        let of_group = |sample: &&Sample| {
            key.group.iter().all(|(name, value)| sample.labels.get(name) == Some(value))
        };
        let found = self.sloth.iter().find(of_group)?;
        found.value.is_finite().then_some(found.value)
    }
}

/// Counts the whole window of one SLO.
///
/// **Errors**: it has no budget that can be counted, or the metrics server does not answer.
async fn count(
    url: &str,
    subject: &Subject,
    (namespace, slo): (&str, &Slo),
    metrics: &PrometheusClient,
    time: &RealTime,
) -> anyhow::Result<Shown> {
    let Some(tracker) = Tracker::new(slo) else {
        let why = Tracker::problem(slo).unwrap_or_else(|| "its SLI cannot be read".to_owned());
        bail!("{}: its budget cannot be counted: {why}", slo.id);
    };
    let mut tracker = tracker.within(namespace);
    let (mut shown_percent, mut failures) = (0, 0);
    loop {
        match tracker.advance(metrics, time, LOOK_EVERY).await {
            Ok(()) => failures = 0,
            // It asks for less after a failure, and continues where it was.
            Err(_) if failures < FAILURES_MAX => {
                failures += 1;
                continue;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{}: the counters at {url} (--prometheus)", slo.id));
            }
        }
        match tracker.sight() {
            Sight::Counting(percent) if *percent > shown_percent => {
                shown_percent = *percent;
                io::complain(&format!("{}: {percent} % of {} is counted", slo.id, slo.window));
            }
            Sight::Counting(_) => {}
            Sight::Counted => break,
            Sight::NoSeries { query, evidence } => {
                let why = evidence.as_ref().map_or(String::new(), |why| format!(" ({why})"));
                io::complain(&format!(
                    "warning: {}: no series matches {query} at {url}{why}",
                    slo.id
                ));
                break;
            }
        }
    }
    let mut histories = tracker.histories().clone();
    // What a query without any series says of the service is not known: it may be the wrong query.
    if matches!(tracker.sight(), Sight::NoSeries { evidence: Some(_), .. }) {
        histories.clear();
    }
    if histories.is_empty() {
        histories.extend([tracker.unknown()]);
    }
    let query = budget_left_query(slo);
    let sloth = metrics.query(&query, time.now()).await.with_context(|| query.clone())?;
    let exclusions = exclusions(&subject.maintenances, slo);
    let namespace = namespace.to_owned();
    Ok(Shown { namespace, slo: slo.clone(), histories, exclusions, sloth })
}

/// The series that Sloth's rules record about what is left.
fn budget_left_query(slo: &Slo) -> String {
    format!("slo:period_error_budget_remaining:ratio{}", slo.filter())
}

/// The SLOs of a cluster, with what their status and maintenances say.
async fn of_cluster(args: &SloStatusArgs) -> anyhow::Result<Subject> {
    let kubeconfig = args.kubeconfig.clone();
    let kubeconfig = kubeconfig.or_else(|| paths::kubeconfig_of_up(args.data_dir.as_deref()));
    let store = connect(kubeconfig.as_deref())
        .await
        .context("start `evenkeel up`, name SLO manifests, or name a cluster with --kubeconfig")?;
    let slos = ListQuery::all(GroupKind::of::<PrometheusServiceLevel>());
    let slos = store.list(&slos).await.context("list the cluster's SLOs")?.items;
    if slos.is_empty() {
        bail!("the cluster has no PrometheusServiceLevel: apply one, or name manifests here");
    }
    let maintenances = ListQuery::all(GroupKind::of::<SloMaintenance>());
    let maintenances = store.list(&maintenances).await.map_or_else(|_| Vec::new(), |l| l.items);
    let mut subject = Subject {
        maintenances: maintenances.iter().map(|obj| (**obj).clone()).collect(),
        of_cluster: true,
        ..Subject::default()
    };
    for obj in slos {
        let known = obj.json().get("status").map(misfit::readable::<SloStatusObject>);
        let known = known.unwrap_or_default().0;
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
