use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// Upper bounds in seconds. **Source**: the article's `app_request_duration_seconds`.
const BUCKETS: [f64; 8] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Distinct paths counted separately; a client that asks for everything must not fill the memory.
const ENDPOINTS_MAX: usize = 50;

/// The metrics of one instance.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: BTreeMap<Labels, Histogram>,
    transactions: BTreeMap<(String, u16), u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    method: String,
    endpoint: String,
    status: u16,
}

#[derive(Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum_s: f64,
}

impl Metrics {
    /// Counts an answered request.
    pub(crate) fn observe(&mut self, method: &str, path: &str, status: u16, took: Duration) {
        let known = self.series.keys().any(|labels| labels.endpoint == path);
        let endpoint = if known || self.series.len() < ENDPOINTS_MAX { path } else { "other" };
        let labels = Labels { method: method.to_owned(), endpoint: endpoint.to_owned(), status };
        let histogram = self.series.entry(labels).or_default();
        let seconds = took.as_secs_f64();
        for (bound, count) in BUCKETS.iter().zip(&mut histogram.counts) {
            *count += u64::from(seconds <= *bound);
        }
        histogram.count += 1;
        histogram.sum_s += seconds;
    }

    /// Counts an executed POST, or one that failed before executing.
    pub(crate) fn transaction(&mut self, kind: &str, status: u16) {
        *self.transactions.entry((kind.to_owned(), status)).or_default() += 1;
    }

    /// The exposition text.
    pub(crate) fn render(&self, service: &str) -> String {
        let mut text = String::from(
            "# HELP app_request_duration_seconds Duration of HTTP requests in seconds\n\
             # TYPE app_request_duration_seconds histogram\n",
        );
        let mut line = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("writing to a String cannot fail");
        };
        for (Labels { method, endpoint, status }, histogram) in &self.series {
            let endpoint = endpoint.replace('\\', "\\\\").replace('"', "\\\"");
            let labels = format!(
                r#"service="{service}",method="{method}",endpoint="{endpoint}",status="{status}""#
            );
            for (bound, count) in BUCKETS.iter().zip(&histogram.counts) {
                line(format_args!(
                    "app_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}\n"
                ));
            }
            let Histogram { count, sum_s, .. } = histogram;
            line(format_args!(
                "app_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}\n\
                 app_request_duration_seconds_sum{{{labels}}} {sum_s}\n\
                 app_request_duration_seconds_count{{{labels}}} {count}\n"
            ));
        }
        line(format_args!(
            "# HELP app_business_transactions_total Total number of business transactions\n\
             # TYPE app_business_transactions_total counter\n"
        ));
        for ((kind, status), count) in &self.transactions {
            line(format_args!(
                "app_business_transactions_total{{service=\"{service}\",\
                 transaction_type=\"{kind}\",status=\"{status}\"}} {count}\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_endpoints_are_bounded() {
        let mut metrics = Metrics::default();
        metrics.observe("GET", "/a", 200, Duration::from_millis(50));
        metrics.observe("GET", "/a", 200, Duration::from_millis(5));
        metrics.transaction("order", 200);
        insta::assert_snapshot!(metrics.render("api"), @r#"
        # HELP app_request_duration_seconds Duration of HTTP requests in seconds
        # TYPE app_request_duration_seconds histogram
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="0.001"} 0
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="0.01"} 1
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="0.1"} 2
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="0.5"} 2
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="1"} 2
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="2.5"} 2
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="5"} 2
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="10"} 2
        app_request_duration_seconds_bucket{service="api",method="GET",endpoint="/a",status="200",le="+Inf"} 2
        app_request_duration_seconds_sum{service="api",method="GET",endpoint="/a",status="200"} 0.055
        app_request_duration_seconds_count{service="api",method="GET",endpoint="/a",status="200"} 2
        # HELP app_business_transactions_total Total number of business transactions
        # TYPE app_business_transactions_total counter
        app_business_transactions_total{service="api",transaction_type="order",status="200"} 1
        "#);
        for number in 0..1000 {
            metrics.observe("GET", &format!("/{number}"), 200, Duration::ZERO);
        }
        assert!(metrics.series.len() <= ENDPOINTS_MAX + 1);
    }
}
