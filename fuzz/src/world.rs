//! The small fixed world that queries and rules run over, and limits that fit it.

use evenkeel_promql::engine::Options;
use evenkeel_promql::labels::Labels;
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::testscript::notation::series_line;

/// One series per line, one point per minute: counters with resets, gaps, ends and nonsense values,
/// classic and native histograms, a name beyond ASCII.
const SERIES: &str = r#"
up{job="a",instance="0"} 1x30 stale _x5 1x10
up{job="a",instance="1"} 1x10 0x20 1x20
up{job="b"} 1x50
http_requests_total{job="a",code="200",path="/"} 0+60x20 5+60x30
http_requests_total{job="a",code="500",path="/"} 0+1x50
http_requests_total{job="b",code="200",path="/x"} 0+3x50
took_bucket{job="a",le="0.1"} 0+5x50
took_bucket{job="a",le="1"} 0+8x50
took_bucket{job="a",le="+Inf"} 0+9x50
took_sum{job="a"} 0+3.5x50
took_count{job="a"} 0+9x50
odd{kind="nan"} NaN 1 NaN 2 Inf -Inf NaNx20 1e308+1e308x20
odd{kind="tiny"} 5e-324 -0 0 1e-300x40
{"dotted.name","l.abel"="v"} 1x5
native{job="a"} {{schema:1 sum:3 count:22 z_bucket:2 z_bucket_w:0.001 buckets:[5 10 7] n_buckets:[1 2]}}+{{schema:1 sum:1 count:4 buckets:[1 2 1]}}x40
native{job="b"} {{schema:3 sum:3 count:22 offset:-3 buckets:[5 10 7]}}x10 {{schema:0 sum:1 count:2 buckets:[2]}}x10 {{schema:-4 sum:NaN count:2 buckets:[2]}}x10
native{job="c"} {{schema:-53 sum:3 count:22 custom_values:[1 5 10] buckets:[5 10 7]}}x20 1x10
mixed 1x10 {{schema:0 sum:1 count:2 buckets:[2]}}x10 1x10
target_info{job="a",instance="0",version="1"} 1x50
"#;

/// Distance of the points.
pub(crate) const STEP_MS: i64 = 60_000;
/// Time of the last points.
pub(crate) const END_MS: i64 = 50 * STEP_MS;

/// A store with the fixed series, and one so long that its samples are packed into blocks.
pub(crate) fn store() -> SeriesStore {
    let mut store = SeriesStore::with_limit(5_000);
    let long = Labels::from_pairs([("__name__", "long_total"), ("job", "a")]);
    for i in 0..2_000_i32 {
        // Every 700 samples the counter starts again.
        let value = f64::from(i % 700) * 1.5;
        store.append(&long, i64::from(i) * 1_500, value).expect("times ascend");
    }
    for line in SERIES.lines().filter(|line| !line.is_empty()) {
        let line = series_line(line).expect("the fixed series are well-formed");
        for (i, noted) in line.points.into_iter().enumerate() {
            let t_ms = STEP_MS * i64::try_from(i).unwrap_or_default();
            if let Some(value) = noted.value {
                store.append_value(&line.labels, t_ms, value, 0).expect("times ascend");
            }
        }
    }
    store
}

/// Limits that let one query take some 10 ms at most.
pub(crate) fn options() -> Options {
    Options { samples_max: 20_000, work_max: 200_000, ..Options::default() }
}
