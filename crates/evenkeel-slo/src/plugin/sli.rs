//! SLI plugins: a query from a few options.
//!
//! Source: the ids, options and metrics of `slok/sloth-common-sli-plugins` and of the examples
//! of `slok/sloth`; the queries are composed here from metric, matchers and shape.

use regex::Regex;

use super::PluginError;
use crate::model::Labels;

/// What a plugin may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SliContext<'a> {
    /// Objective. Unit: percent.
    pub objective: f64,
    /// Labels of the group (not of the SLO).
    pub labels: &'a Labels,
    /// `sli.plugin.options`.
    pub options: &'a Labels,
}

/// The ids this build knows.
pub const SLI_PLUGIN_IDS: &[&str] = &[
    "sloth-common/coredns/availability",
    "sloth-common/coredns/latency",
    "sloth-common/fake",
    "sloth-common/haproxy/frontend/availability",
    "sloth-common/istio/v1/availability",
    "sloth-common/istio/v1/latency",
    "sloth-common/kubernetes/apiserver/availability",
    "sloth-common/kubernetes/apiserver/latency",
    "sloth-common/kubernetes/kooper/availability",
    "sloth-common/kubernetes/kooper/latency",
    "sloth-common/kubernetes/kooper/queue-congestion",
    "sloth-common/kubernetes/nginx-ingress/availability",
    "sloth-common/noop",
    "sloth-common/prometheus/rules/eval-availability",
    "sloth-common/prometheus/targets/availability",
    "sloth-common/slok-go-http-metrics/availability",
    "sloth-common/slok-go-http-metrics/latency",
    "sloth-common/traefik/v1/availability",
    "sloth-common/traefik/v1/latency",
    "sloth-common/traefik/v2/availability",
    "sloth-common/traefik/v2/latency",
    // The two below belong to Sloth's own examples and tests.
    "getting_started_availability",
    "integration_test",
];

const W: &str = "{{.window}}";
const BAD_CODES: &str = "code=~\"(5..|429)\"";

/// The error-ratio query of a plugin.
pub(crate) fn sli_query(id: &str, context: &SliContext<'_>) -> Result<String, PluginError> {
    compose(id, context)
        .unwrap_or_else(|| Err(PluginError::Unknown { id: id.to_owned(), known: SLI_PLUGIN_IDS }))
}

fn compose(id: &str, context: &SliContext<'_>) -> Option<Result<String, PluginError>> {
    let o = Options { context };
    // The two spellings differ between the plugins' paths and their registered ids.
    let short = id.strip_prefix("sloth-common/").or_else(|| id.strip_prefix("sloth_common/"));
    let made = match short {
        Some("noop") => Ok(format!("max_over_time(vector(0)[{W}:])")),
        Some("fake") => o.fake(),
        Some(short) => common(short, &o)?,
        None => match id {
            "getting_started_availability" => o.example("http_request_duration_seconds_count"),
            "integration_test" => o.example("integration_test"),
            _ => return None,
        },
    };
    Some(made.map_err(|message| PluginError::Refused { id: id.to_owned(), message }))
}

fn common(id: &str, o: &Options<'_>) -> Option<Result<String, String>> {
    Some(match id {
        "coredns/availability" => o.coredns(),
        "coredns/latency" => o.latency("coredns_dns_request_duration_seconds", "", true, false),
        "haproxy/frontend/availability" => {
            let f = o.filter();
            let total = if f.is_empty() { String::new() } else { format!("{f},") };
            Ok(ratio(
                "haproxy_frontend_http_responses_total",
                &total,
                &format!("{total}code=\"5xx\""),
            ))
        }
        "istio/v1/availability" => o.destination().map(|to| {
            let f = comma(&o.filter());
            let all = format!("{f}{to}");
            guarded("istio_requests_total", &all, "response_code=~\"(5..|429)\"")
        }),
        "istio/v1/latency" => o
            .destination()
            .and_then(|to| o.latency("istio_request_duration_milliseconds", &to, true, true)),
        "kubernetes/apiserver/availability" => o
            .checked_filter(false)
            .map(|f| ratio("apiserver_request_total", &f, &format!("{}{BAD_CODES}", comma(&f)))),
        "kubernetes/apiserver/latency" => o.apiserver_latency(),
        "kubernetes/kooper/availability" => o.kooper_availability(),
        "kubernetes/kooper/latency" => o.kooper("processed_event_duration_seconds"),
        "kubernetes/kooper/queue-congestion" | "kubernetes/kooper/queuecongestion" => {
            o.kooper("event_in_queue_duration_seconds")
        }
        "kubernetes/nginx-ingress/availability" => o.checked_filter(false).map(|f| {
            let bad = format!("{}status=~\"(5..|429)\"", comma(&f));
            ratio("nginx_ingress_controller_requests", &f, &bad)
        }),
        "prometheus/rules/eval-availability" | "prometheus/rules/evalavailability" => {
            let f = o.filter();
            let bad = rate("prometheus_rule_evaluation_failures_total", &f);
            let all = rate("prometheus_rule_evaluations_total", &f);
            Ok(format!("\n{bad}\n/\n{all}\n"))
        }
        "prometheus/targets/availability" => {
            let f = o.filter();
            let count = |vector: &str| format!("sum(count_over_time({vector}[{W}:]))");
            let down = count(&format!("(up{{ {f} }} == 0)"));
            let all = count(&format!("(up{{ {f} }})"));
            Ok(format!("\n{down}\n/\n{all}\n"))
        }
        "slok-go-http-metrics/availability" => o.checked_filter(true).map(|f| {
            ratio("http_request_duration_seconds_count", &f, &format!("{}{BAD_CODES}", comma(&f)))
        }),
        "slok-go-http-metrics/latency" => o.go_http_latency(),
        "traefik/v1/availability" => o.named("backend", "backend_regex").map(|to| {
            guarded(
                "traefik_backend_requests_total",
                &format!("{}{to}", comma(&o.filter())),
                BAD_CODES,
            )
        }),
        "traefik/v1/latency" => o
            .named("backend", "backend_regex")
            .and_then(|to| o.latency("traefik_backend_request_duration_seconds", &to, true, true)),
        "traefik/v2/availability" => o.named("service", "service_name_regex").map(|to| {
            let all = format!("{}{to}", comma(&o.filter()));
            guarded("traefik_service_requests_total", &all, "code=~\"(5..)\"")
        }),
        "traefik/v2/latency" => o
            .named("service", "service_name_regex")
            .and_then(|to| o.latency("traefik_service_request_duration_seconds", &to, true, true)),
        _ => return None,
    })
}

/// `sum(rate(metric{ matchers }[window]))`.
fn rate(metric: &str, matchers: &str) -> String {
    format!("sum(rate({metric}{{ {matchers} }}[{W}]))")
}

fn ratio(metric: &str, all: &str, bad: &str) -> String {
    format!("\n{}\n/\n{}\n", rate(metric, bad), rate(metric, all))
}

/// As [`ratio`], but 0 when there is no traffic.
fn guarded(metric: &str, all: &str, bad: &str) -> String {
    let bad = rate(metric, &format!("{all},{bad}"));
    let all = rate(metric, all);
    format!("\n(\n  {bad}\n  /\n  ({all} > 0)\n) OR on() vector(0)\n")
}

fn comma(filter: &str) -> String {
    if filter.is_empty() { String::new() } else { format!("{filter},") }
}

struct Options<'a> {
    context: &'a SliContext<'a>,
}

impl Options<'_> {
    fn get(&self, key: &str) -> &str {
        self.context.options.get(key).map_or("", String::as_str)
    }

    fn required(&self, key: &str) -> Result<&str, String> {
        let value = self.get(key).trim();
        if value.is_empty() { Err(format!("{key:?} option is required")) } else { Ok(value) }
    }

    fn number(&self, key: &str) -> Result<&str, String> {
        let text = self.required(key)?;
        text.parse::<f64>().map_err(|_| format!("{key:?} option {text:?} is not a number"))?;
        Ok(text)
    }

    /// Extra matchers, without braces and outer commas.
    fn filter(&self) -> String {
        self.get("filter").trim_matches(['{', '}', ',']).to_owned()
    }

    /// As [`Options::filter`], but only `name="value"` pairs.
    fn checked_filter(&self, required: bool) -> Result<String, String> {
        if self.get("filter").is_empty() {
            return if required { Err("filter is required".to_owned()) } else { Ok(String::new()) };
        }
        let filter = self.filter();
        // Values hold neither commas nor equal signs, which is what the original checks.
        let pair = |p: &str| {
            let Some((name, value)) = p.split_once('=') else { return false };
            let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            !name.is_empty() && inner.is_some_and(|v| !v.is_empty() && !v.contains(['=', '"']))
        };
        if filter.split(',').all(pair) {
            Ok(filter)
        } else {
            Err(format!("invalid prometheus filter: {filter}"))
        }
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            other => Err(format!("{key:?} option {other:?} is not true or false")),
        }
    }

    fn regex(&self, key: &str) -> Result<&str, String> {
        let text = self.required(key)?;
        Regex::new(text)
            .map_err(|_| format!("{key:?} option {text:?} is not a regular expression"))?;
        Ok(text)
    }

    /// The plugin of Sloth's getting-started example, which its tests repeat with their metric.
    fn example(&self, metric: &str) -> Result<String, String> {
        let job = self.context.options.get("job").ok_or("job options is required")?;
        for key in ["owner", "tier"] {
            if self.context.labels.get(key).is_none_or(String::is_empty) {
                return Err(format!("invalid labels: {key:?} label is required"));
            }
        }
        let all = format!("{}job=\"{job}\"", comma(&self.filter()));
        let bad = rate(metric, &format!("{all},{BAD_CODES}"));
        Ok(format!("\n{bad}\n/\n{}", rate(metric, &all)))
    }

    fn coredns(&self) -> Result<String, String> {
        let codes = self.get("custom_rcode_regex").trim();
        let codes = if codes.is_empty() { "SERVFAIL" } else { self.regex("custom_rcode_regex")? };
        let f = self.filter();
        let metric = "coredns_dns_responses_total";
        let bad = rate(metric, &format!("{}rcode=~\"{codes}\"", comma(&f)));
        Ok(format!("\n{bad}\n/\n({} > 0)\n", rate(metric, &f)))
    }

    fn destination(&self) -> Result<String, String> {
        let (service, ns) = (self.required("service")?, self.required("namespace")?);
        Ok(format!("destination_service_name=\"{service}\",destination_service_namespace=\"{ns}\""))
    }

    fn named(&self, label: &str, option: &str) -> Result<String, String> {
        Ok(format!("{label}=~\"{}\"", self.regex(option)?))
    }

    /// Share of requests outside a histogram bucket; `guard`: 0 when there is no traffic.
    fn latency(
        &self,
        metric: &str,
        to: &str,
        guard: bool,
        can_exclude: bool,
    ) -> Result<String, String> {
        let bucket = self.number("bucket")?;
        let mut f = self.filter();
        if can_exclude && self.flag("exclude_errors")? {
            f = format!("{}code!~\"5..\"", comma(&f));
        }
        let all = if to.is_empty() { f } else { format!("{}{to}", comma(&f)) };
        let fast = format!("{}le=\"{bucket}\"", comma(&all));
        let fast = rate(&format!("{metric}_bucket"), &fast);
        let all = rate(&format!("{metric}_count"), &all);
        Ok(if guard {
            format!("\n1 - ((\n  {fast}\n  /\n  ({all} > 0)\n) OR on() vector(1))\n")
        } else {
            format!("\n1 - (\n  {fast}\n  /\n  {all}\n)\n")
        })
    }

    fn go_http_latency(&self) -> Result<String, String> {
        self.number("bucket")?;
        self.checked_filter(true)?;
        self.latency("http_request_duration_seconds", "", false, true)
    }

    fn apiserver_latency(&self) -> Result<String, String> {
        let bucket = self.number("bucket")?;
        let f = comma(&self.checked_filter(false)?);
        let metric = "apiserver_request_duration_seconds";
        let all = rate(&format!("{metric}_count"), &format!("{f}verb!=\"WATCH\""));
        let fast = format!("{f}le=\"{bucket}\",verb!=\"WATCH\"");
        let fast = rate(&format!("{metric}_bucket"), &fast);
        Ok(format!("\n(\n  {all}\n  -\n  {fast}\n)\n/\n{all}\n"))
    }

    fn kooper_availability(&self) -> Result<String, String> {
        let of =
            format!("{}controller=\"{}\"", comma(&self.filter()), self.required("controller")?);
        let metric = "kooper_controller_processed_event_duration_seconds_count";
        let bad = rate(metric, &format!("{of},success=\"false\""));
        let all = rate(metric, &of);
        let again =
            rate("kooper_controller_queued_events_total", &format!("{of},requeue=\"true\""));
        Ok(format!("\n{bad}\n/\n(\n  {all}\n  -\n  {again}\n)\n"))
    }

    fn kooper(&self, metric: &str) -> Result<String, String> {
        let of = format!("controller=\"{}\"", self.required("controller")?);
        self.latency(&format!("kooper_controller_{metric}"), &of, false, false)
    }

    /// A budget that burns at a chosen speed, for trying alerts out.
    fn fake(&self) -> Result<String, String> {
        let burn: f64 = self.number("burn_rate")?.parse().unwrap_or(0.0);
        // The objective reaches the plugin as text with six decimals.
        let objective: f64 = format!("{:.6}", self.context.objective).parse().unwrap_or(0.0);
        let error = (100.0 - objective) / 100.0 * burn;
        let query = format!("max_over_time(vector({error:.6})[{W}:])");
        if self.get("jitter_percent").is_empty() {
            return Ok(query);
        }
        let jitter: f64 = self.number("jitter_percent")?.parse().unwrap_or(0.0);
        if jitter == 0.0 {
            return Ok(query);
        }
        let double = jitter * 2.0;
        let clock = "time() * minute() * hour() * day_of_week() * month()";
        let noise = format!("({error:.6} * ({jitter:.6} - (({clock}) % {double:.6}))) / 100");
        Ok(format!("({query}) - ({noise})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: &str, options: &[(&str, &str)]) -> String {
        let set = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let labels = set(&[("owner", "me"), ("tier", "2")]);
        let options = set(options);
        let context = SliContext { objective: 99.9, labels: &labels, options: &options };
        sli_query(id, &context).unwrap_or_else(|e| format!("{e}; {}", e.fix()))
    }

    #[test]
    fn every_listed_plugin_gives_a_query_with_a_window() {
        let options = [
            ("bucket", "0.5"),
            ("filter", "a=\"b\""),
            ("controller", "c"),
            ("job", "j"),
            ("service", "s"),
            ("namespace", "n"),
            ("backend_regex", "b.*"),
            ("burn_rate", "2"),
            ("service_name_regex", "s.*"),
        ];
        for id in SLI_PLUGIN_IDS {
            let query = made(id, &options);
            assert_eq!(crate::query::check(&query, crate::query::Dialect::PromQl), Ok(()), "{id}");
            assert!(crate::template::has_window(&query), "{id}: {query}");
        }
    }

    #[test]
    fn wrong_options_and_unknown_ids_say_what_to_do() {
        let latency = "sloth-common/istio/v1/latency";
        insta::assert_snapshot!(made(latency, &[("service", "s"), ("namespace", "n")]), @r#"
        plugin "sloth-common/istio/v1/latency" execution error: "bucket" option is required; correct the plugin's options
        "#);
        insta::assert_snapshot!(made("sloth-common/istio/v2/latency", &[]), @r#"
        plugin "sloth-common/istio/v2/latency" is not built in; use one of the built-in ids, such as sloth-common/istio/v1/latency, sloth-common/coredns/latency, sloth-common/istio/v1/availability
        "#);
        insta::assert_snapshot!(
            made("sloth-common/kubernetes/apiserver/availability", &[("filter", "a=~b")]), @r#"
        plugin "sloth-common/kubernetes/apiserver/availability" execution error: invalid prometheus filter: a=~b; correct the plugin's options
        "#);
        insta::assert_snapshot!(made("sloth-common/fake", &[("burn_rate", "10")]), @"max_over_time(vector(0.010000)[{{.window}}:])");
    }
}
