//! The queries of the built-in metrics, by the data plane that counts requests.
//!
//! **Source**: Flagger 1.44 `pkg/metrics/observers`. Unlike there, the share of errors is asked as
//! two sums: a quotient has no value while there is no error, or nothing else.

use crate::services::Names;

/// Who counts requests to the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Istio, and evenkeel's gateway per attempt under the same names.
    Mesh,
    /// The same, or what Contour counts, or the pods themselves where another gateway routes.
    MeshOrPods,
    /// The pods themselves.
    Pods,
    /// Linkerd's proxies.
    Linkerd,
    /// Traefik, by its Services.
    Traefik,
}

/// How many requests there were, and how many failed.
pub(crate) struct Success {
    pub(crate) all: String,
    pub(crate) bad: String,
}

/// The 99th percentile.
pub(crate) struct Latency {
    pub(crate) expr: String,
    /// Milliseconds in the unit of its series.
    pub(crate) ms: f64,
}

/// One family of series, without the braces around its matchers.
struct Family {
    count: &'static str,
    /// Matches failed requests.
    bad: &'static str,
    bucket: &'static str,
    ms: f64,
    /// The canary, in both; what only the count needs stands in `only`.
    matchers: String,
    only: &'static str,
}

impl Source {
    /// In this order: the first that has data counts.
    fn families(self, names: &Names) -> Vec<Family> {
        let Names { namespace, target, canary, .. } = names;
        let mesh = || Family {
            count: "istio_requests_total",
            bad: "response_code=~\"5.*\"",
            bucket: "istio_request_duration_milliseconds_bucket",
            ms: 1.0,
            matchers: format!(
                "reporter=\"destination\",destination_workload_namespace=\"{namespace}\",\
                 destination_workload=~\"{target}\""
            ),
            only: "",
        };
        let pods = || Family {
            count: "http_request_duration_seconds_count",
            bad: "status=~\"5.*\"",
            bucket: "http_request_duration_seconds_bucket",
            ms: 1000.0,
            matchers: format!(
                "kubernetes_namespace=\"{namespace}\",\
                 kubernetes_pod_name=~\"{target}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)\""
            ),
            only: "",
        };
        let contour = || Family {
            count: "envoy_cluster_upstream_rq",
            bad: "envoy_response_code=~\"5.*\"",
            bucket: "envoy_cluster_upstream_rq_time_bucket",
            ms: 1.0,
            matchers: format!("envoy_cluster_name=~\"{namespace}_{canary}_[0-9a-zA-Z-]+\""),
            only: "",
        };
        match self {
            Self::Mesh => vec![mesh()],
            Self::MeshOrPods => vec![mesh(), contour(), pods()],
            Self::Pods => vec![pods()],
            Self::Linkerd => vec![Family {
                count: "response_total",
                bad: "classification=\"failure\"",
                bucket: "response_latency_ms_bucket",
                ms: 1.0,
                matchers: format!(
                    "namespace=\"{namespace}\",deployment=~\"{target}\",direction=\"inbound\""
                ),
                only: "",
            }],
            Self::Traefik => vec![Family {
                count: "traefik_service_request_duration_seconds_bucket",
                bad: "code=~\"5..\"",
                bucket: "traefik_service_request_duration_seconds_bucket",
                ms: 1000.0,
                // The name of a Service as Traefik's providers for its CRDs and the Gateway API
                // make it.
                matchers: format!(
                    "service=~\"{namespace}-{canary}-[0-9a-zA-Z-]+@kubernetes(crd|gateway)\""
                ),
                only: "le=\"+Inf\"",
            }],
        }
    }

    /// How many requests to the canary there were and how many failed, each time one source.
    pub(crate) fn success(self, names: &Names, window: &str) -> Vec<Success> {
        let query = |family: Family| {
            let Family { count, bad, matchers, only, .. } = family;
            let sum = |more: &[&str]| {
                let more: Vec<_> = more.iter().filter(|it| !it.is_empty()).copied().collect();
                let all = [&[matchers.as_str()], more.as_slice()].concat().join(",");
                format!("sum(rate({count}{{{all}}}[{window}]))")
            };
            Success { all: sum(&[only]), bad: sum(&[only, bad]) }
        };
        self.families(names).into_iter().map(query).collect()
    }

    /// How long the canary took, each time one source.
    pub(crate) fn duration(self, names: &Names, window: &str) -> Vec<Latency> {
        let query = |family: Family| {
            let Family { bucket, matchers, ms, .. } = family;
            let rate = format!("rate({bucket}{{{matchers}}}[{window}])");
            let expr = format!("histogram_quantile(0.99, sum by (le) ({rate}))");
            Latency { expr, ms }
        };
        self.families(names).into_iter().map(query).collect()
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::canary::{CanarySpec, ObjectRef};
    use evenkeel_promql::{
        engine::{Options, instant_text},
        labels::Labels,
        series::SeriesStore,
    };

    use super::*;

    /// Name, labels, and by how much it grows each minute.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

    /// Ten minutes of these series.
    fn sample(series: &[Row<'_>]) -> SeriesStore {
        let mut store = SeriesStore::new();
        for (name, labels, per_minute) in series {
            let all = [("__name__", *name)].into_iter().chain(labels.iter().copied());
            let labels = Labels::from_pairs(all);
            let mut value = 0.0;
            for minute in 0..=10 {
                store.append(&labels, minute * 60_000, value).unwrap();
                value += per_minute;
            }
        }
        store
    }

    fn number(store: &SeriesStore, query: &str) -> Option<f64> {
        let result = instant_text(store, query, 600_000, &Options::default()).unwrap();
        result.to_response().pointer("/data/result/0/value/1")?.as_str()?.parse().ok()
    }

    /// Requests and errors per minute, and the 99th percentile in milliseconds.
    fn measured(source: Source, store: &SeriesStore) -> String {
        let target_ref = ObjectRef { name: "api".to_owned(), ..ObjectRef::default() };
        let names = Names::from_spec(&CanarySpec { target_ref, ..CanarySpec::default() }, "shop");
        let queries = source.success(&names, "5m").into_iter();
        let counts = queries.map(|query| {
            let rate = |query: &str| number(store, query).map(|rate| (rate * 60.0).round());
            format!("{:?} {:?}", rate(&query.all), rate(&query.bad))
        });
        let times = source.duration(&names, "5m").into_iter();
        let times = times.map(|query| {
            format!(
                "{:?}",
                number(store, &query.expr).map(|v| (v * query.ms * 10.0).round() / 10.0)
            )
        });
        counts
            .zip(times)
            .map(|(counts, time)| format!("{counts} {time}"))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn istios_series_of_the_canary_are_read() {
        let istio = |workload| {
            move |code| {
                [
                    ("reporter", "destination"),
                    ("destination_workload_namespace", "shop"),
                    ("destination_workload", workload),
                    ("response_code", code),
                ]
            }
        };
        let (canary, primary) = (istio("api"), istio("api-primary"));
        let store = sample(&[
            ("istio_requests_total", &canary("200"), 90.0),
            ("istio_requests_total", &canary("503"), 10.0),
            ("istio_requests_total", &primary("500"), 500.0),
            (
                "istio_request_duration_milliseconds_bucket",
                &[&canary("200")[..], &[("le", "50")]].concat(),
                100.0,
            ),
            (
                "istio_request_duration_milliseconds_bucket",
                &[&canary("200")[..], &[("le", "+Inf")]].concat(),
                100.0,
            ),
        ]);
        assert_eq!(measured(Source::Mesh, &store), "Some(100.0) Some(10.0) Some(49.5)");
        assert_eq!(measured(Source::Pods, &store), "None None None");
    }

    #[test]
    fn what_pods_count_themselves_is_read_for_the_canary_alone() {
        let pod = |name| {
            move |status| {
                [
                    ("kubernetes_namespace", "shop"),
                    ("kubernetes_pod_name", name),
                    ("status", status),
                ]
            }
        };
        let (canary, primary) = (pod("api-5d9f-x2x"), pod("api-primary-5d9f-x2x-1"));
        let store = sample(&[
            ("http_request_duration_seconds_count", &canary("200"), 60.0),
            ("http_request_duration_seconds_count", &canary("500"), 3.0),
            ("http_request_duration_seconds_count", &primary("500"), 50.0),
            (
                "http_request_duration_seconds_bucket",
                &[&canary("200")[..], &[("le", "0.1")]].concat(),
                63.0,
            ),
            (
                "http_request_duration_seconds_bucket",
                &[&canary("200")[..], &[("le", "+Inf")]].concat(),
                63.0,
            ),
        ]);
        assert_eq!(measured(Source::Pods, &store), "Some(63.0) Some(3.0) Some(99.0)");
        let all = "None None None; None None None; Some(63.0) Some(3.0) Some(99.0)";
        assert_eq!(measured(Source::MeshOrPods, &store), all);
    }

    #[test]
    fn contours_series_of_the_canary_are_read() {
        let cluster = |name| move |more| [("envoy_cluster_name", name), more];
        let (canary, primary) = (cluster("shop_api-canary_80"), cluster("shop_api-primary_80"));
        let (count, bucket) =
            ("envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_time_bucket");
        let store = sample(&[
            (count, &canary(("envoy_response_code", "200")), 40.0),
            (count, &canary(("envoy_response_code", "503")), 2.0),
            (count, &primary(("envoy_response_code", "503")), 30.0),
            (bucket, &canary(("le", "10")), 42.0),
            (bucket, &canary(("le", "+Inf")), 42.0),
        ]);
        let of_contour = "Some(42.0) Some(2.0) Some(9.9)";
        let all = format!("None None None; {of_contour}; None None None");
        assert_eq!(measured(Source::MeshOrPods, &store), all);
    }

    #[test]
    fn linkerds_series_of_the_canary_are_read() {
        let proxy = |deployment| {
            move |class| {
                [
                    ("namespace", "shop"),
                    ("deployment", deployment),
                    ("direction", "inbound"),
                    ("classification", class),
                ]
            }
        };
        let (canary, primary) = (proxy("api"), proxy("api-primary"));
        let store = sample(&[
            ("response_total", &canary("success"), 60.0),
            ("response_total", &canary("failure"), 6.0),
            ("response_total", &primary("failure"), 60.0),
            (
                "response_latency_ms_bucket",
                &[&canary("success")[..], &[("le", "10")]].concat(),
                66.0,
            ),
            (
                "response_latency_ms_bucket",
                &[&canary("success")[..], &[("le", "+Inf")]].concat(),
                66.0,
            ),
        ]);
        assert_eq!(measured(Source::Linkerd, &store), "Some(66.0) Some(6.0) Some(9.9)");
    }

    #[test]
    fn traefiks_series_of_the_canary_are_read() {
        let service = |name| move |code, le| [("service", name), ("code", code), ("le", le)];
        let canary = service("shop-api-canary-80@kubernetescrd");
        let gateway = service("shop-api-canary-http-80@kubernetesgateway");
        let primary = service("shop-api-primary-80@kubernetescrd");
        let buckets = "traefik_service_request_duration_seconds_bucket";
        let store = sample(&[
            (buckets, &canary("200", "0.1"), 60.0),
            (buckets, &canary("200", "+Inf"), 60.0),
            (buckets, &canary("502", "+Inf"), 2.0),
            (buckets, &canary("502", "0.1"), 2.0),
            (buckets, &gateway("200", "0.1"), 8.0),
            (buckets, &gateway("200", "+Inf"), 8.0),
            (buckets, &primary("502", "+Inf"), 70.0),
        ]);
        assert_eq!(measured(Source::Traefik, &store), "Some(70.0) Some(2.0) Some(99.0)");
    }
}
