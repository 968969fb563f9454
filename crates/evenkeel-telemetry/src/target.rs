use std::time::Duration;

use evenkeel_api::Obj;
use evenkeel_promql::labels::Labels;
use jiff::Timestamp;
use serde_json::Value;

/// The job of discovered pods, as the usual Prometheus configuration names it.
pub const POD_JOB: &str = "kubernetes-pods";

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";

/// Where metrics come from, and the labels that every sample from there gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name that is the same as long as the target is: `job/namespace/pod` or `job/instance`.
    pub id: String,
    /// Its group in the API, equal to the `job` label.
    pub job: String,
    /// `http://ip:port/path`; empty for sources in this process.
    pub url: String,
    /// Labels of its samples.
    pub labels: Labels,
    /// What discovery knew about it.
    pub discovered: Labels,
    /// Labels in the exposition win over the target's; else they are kept as `exported_*`.
    pub honor_labels: bool,
    /// Why it cannot be scraped, with the fix.
    pub problem: Option<String>,
}

impl Target {
    /// A target at a fixed address (`http://host:port/path`).
    pub fn fixed(job: &str, url: &str) -> Self {
        let address = url.split("://").nth(1).unwrap_or(url).split('/').next().unwrap_or_default();
        Self {
            id: format!("{job}/{address}"),
            job: job.to_owned(),
            url: url.to_owned(),
            labels: Labels::from_pairs([("job", job), ("instance", address)]),
            discovered: Labels::from_pairs([("__address__", address), ("job", job)]),
            honor_labels: false,
            problem: None,
        }
    }

    /// A source in this process.
    pub fn in_process(job: &str, instance: &str) -> Self {
        Self {
            id: format!("{job}/{instance}"),
            job: job.to_owned(),
            url: String::new(),
            labels: Labels::from_pairs([("job", job), ("instance", instance)]),
            discovered: Labels::from_pairs([("job", job)]),
            honor_labels: true,
            problem: None,
        }
    }

    /// The name under which a pod is, or would be, a target.
    pub fn pod_id(pod: &Obj) -> String {
        format!("{POD_JOB}/{}/{}", pod.namespace(), pod.name())
    }

    /// The target that a pod is; `None` unless it asks for it, runs, and has an address.
    ///
    /// A pod that is being stopped stays a target to the end: its last counts matter.
    pub fn of_pod(pod: &Obj) -> Option<Self> {
        if pod.annotation(SCRAPE)? != "true" {
            return None;
        }
        let text = |path: &str| pod.json().pointer(path).and_then(Value::as_str).unwrap_or("");
        let ip = text("/status/podIP");
        if text("/status/phase") != "Running" || ip.is_empty() {
            return None;
        }
        let (port, mut problem) = match port_of(pod) {
            Ok(port) => (port, None),
            Err(words) => (0, Some(words)),
        };
        if let Some(scheme) = pod.annotation(SCHEME).filter(|scheme| *scheme != "http") {
            let words = format!("annotation {SCHEME} is {scheme:?}, only http is scraped");
            problem.get_or_insert(words);
        }
        let path = pod.annotation(PATH).unwrap_or("/metrics");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let address = format!("{host}:{port}");
        let app = pod.label("app").or_else(|| pod.label("app.kubernetes.io/name")).unwrap_or("");
        let node = text("/spec/nodeName");
        let labels = Labels::from_pairs([
            ("job", POD_JOB),
            ("instance", &address),
            ("namespace", pod.namespace()),
            ("pod", pod.name()),
            ("app", app),
            ("node", node),
            ("kubernetes_namespace", pod.namespace()),
            ("kubernetes_pod_name", pod.name()),
        ]);
        let discovered = Labels::from_pairs([
            ("__address__", address.as_str()),
            ("__metrics_path__", path),
            ("__meta_kubernetes_namespace", pod.namespace()),
            ("__meta_kubernetes_pod_name", pod.name()),
            ("__meta_kubernetes_pod_ip", ip),
            ("__meta_kubernetes_pod_node_name", node),
            ("__meta_kubernetes_pod_uid", pod.uid()),
        ]);
        Some(Self {
            id: Self::pod_id(pod),
            job: POD_JOB.to_owned(),
            url: format!("http://{address}{slash}{path}"),
            labels,
            discovered,
            honor_labels: false,
            problem,
        })
    }
}

/// The annotated port, else the first TCP port the pod declares, else 80.
fn port_of(pod: &Obj) -> Result<u16, String> {
    if let Some(text) = pod.annotation(PORT) {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        return port.ok_or_else(|| {
            format!("annotation {PORT} is {text:?}, write a number from 1 to 65535")
        });
    }
    let containers = pod.json().pointer("/spec/containers").and_then(Value::as_array);
    let ports = containers.into_iter().flatten().filter_map(|c| c.get("ports")?.as_array());
    let declared = ports
        .flatten()
        .filter(|port| port.get("protocol").and_then(Value::as_str).unwrap_or("TCP") == "TCP")
        .find_map(|port| u16::try_from(port.get("containerPort")?.as_u64()?).ok());
    Ok(declared.unwrap_or(80))
}

/// Whether the last scrape worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not scraped yet.
    Unknown,
    /// It worked.
    Up,
    /// It did not.
    Down,
}

impl Health {
    /// As the HTTP API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What is known about a target's scrapes.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetStatus {
    /// The target.
    pub target: Target,
    /// Whether the last scrape worked.
    pub health: Health,
    /// Why not; empty if it did.
    pub last_error: String,
    /// When that was.
    pub last_scrape: Option<Timestamp>,
    /// How long it took.
    pub took: Duration,
    /// Samples it had.
    pub samples: usize,
    /// Samples of it that the store did not take (too old, or twice with different values).
    pub refused: usize,
    /// Time between scrapes.
    pub interval: Duration,
    /// How long a scrape may take.
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Columns: annotations, `status`, `ports`.
    fn target(annotations: &Value, status: &Value, ports: &Value) -> String {
        let pod = Obj::from_json(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "api-0", "namespace": "shop", "annotations": annotations,
                "labels": {"app": "api"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
            "status": status}))
        .unwrap();
        match Target::of_pod(&pod) {
            None => "none".to_owned(),
            Some(t) => format!("{} {}", t.url, t.problem.unwrap_or_default()),
        }
    }

    #[test]
    fn a_running_pod_that_asks_for_it_is_a_target() {
        let yes = json!({SCRAPE: "true"});
        let runs = json!({"phase": "Running", "podIP": "127.64.0.2"});
        let two = json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 8080}]);
        let none = json!([]);
        insta::assert_snapshot!(target(&yes, &runs, &two), @"http://127.64.0.2:8080/metrics ");
        insta::assert_snapshot!(target(&yes, &runs, &none), @"http://127.64.0.2:80/metrics ");
        insta::assert_snapshot!(target(&json!({}), &runs, &two), @"none");
        insta::assert_snapshot!(target(&json!({SCRAPE: "false"}), &runs, &two), @"none");
        insta::assert_snapshot!(target(&yes, &json!({"phase": "Pending", "podIP": "127.64.0.2"}), &two), @"none");
        insta::assert_snapshot!(target(&yes, &json!({"phase": "Running"}), &two), @"none");
        let placed = json!({SCRAPE: "true", PORT: "9000", PATH: "stats"});
        insta::assert_snapshot!(target(&placed, &runs, &two), @"http://127.64.0.2:9000/stats ");
        let six = json!({"phase": "Running", "podIP": "fd00::2"});
        insta::assert_snapshot!(target(&yes, &six, &two), @"http://[fd00::2]:8080/metrics ");
        insta::assert_snapshot!(target(&json!({SCRAPE: "true", PORT: "http"}), &runs, &two), @r#"http://127.64.0.2:0/metrics annotation prometheus.io/port is "http", write a number from 1 to 65535"#);
        insta::assert_snapshot!(target(&json!({SCRAPE: "true", SCHEME: "https"}), &runs, &two), @r#"http://127.64.0.2:8080/metrics annotation prometheus.io/scheme is "https", only http is scraped"#);
    }
}
