//! The HTTP API as tables: request in, status and body out.

use bytes::Bytes;
use evenkeel_promql::labels::Labels;
use evenkeel_telemetry::{Limits, Telemetry, api};
use http::{Method, Request};
use jiff::Timestamp;

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(n).unwrap()
}

/// Two counters, one of them with 500s, every 10 s from 0 to 600 s.
fn telemetry() -> Telemetry {
    let telemetry = Telemetry::new(Limits::default());
    for (code, pod, per_step) in [("200", "a", 10.0), ("200", "b", 20.0), ("500", "a", 1.0)] {
        let labels = Labels::from_pairs([
            ("__name__", "http_requests_total"),
            ("code", code),
            ("pod", pod),
            ("odd.name", "x"),
        ]);
        for step in 0..=60_i32 {
            let at = second(i64::from(step) * 10);
            telemetry.append(&labels, at, per_step * f64::from(step)).unwrap();
        }
    }
    telemetry
}

fn send(request: &Request<Bytes>) -> String {
    let response = api::handle(&telemetry(), request, second(600));
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    format!("{} {}", response.status().as_u16(), body.trim_end())
}

fn get(uri: &str) -> String {
    // Only what URIs forbid is encoded, so that the rows stay readable.
    let uri = uri.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    send(&Request::get(format!("http://x{uri}")).body(Bytes::new()).unwrap())
}

fn post(uri: &str, form: &'static str) -> String {
    let kind = "application/x-www-form-urlencoded";
    send(&Request::post(uri).header("content-type", kind).body(Bytes::from(form)).unwrap())
}

#[test]
fn instant_queries() {
    insta::assert_snapshot!(get("/api/v1/query?query=1%2B1"), @r#"200 {"status":"success","data":{"resultType":"scalar","result":[600,"2"]}}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=\"a\"&time=1.5"), @r#"200 {"status":"success","data":{"resultType":"string","result":[1.5,"a"]}}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=sum(rate(http_requests_total[5m]))+by+(code)"), @r#"200 {"status":"success","data":{"resultType":"vector","result":[{"metric":{"code":"200"},"value":[600,"3.000000000000001"]},{"metric":{"code":"500"},"value":[600,"0.1"]}]}}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=http_requests_total{code=\"500\"}[20s]&time=1970-01-01T00:01:00Z"), @r#"200 {"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"http_requests_total","code":"500","odd.name":"x","pod":"a"},"values":[[50,"5"],[60,"6"]]}]}}"#);
    insta::assert_snapshot!(post("/api/v1/query?query=2", "query=count(http_requests_total)&time=600"), @r#"200 {"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[600,"3"]}]}}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=http_requests_total&limit=1"), @r#"200 {"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"http_requests_total","code":"200","odd.name":"x","pod":"a"},"value":[600,"600"]}]},"warnings":["results truncated due to limit"]}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=rate(http_requests_total{code=\"500\"}[5m])&stats=all"), @r#"200 {"status":"success","data":{"resultType":"vector","result":[{"metric":{"code":"500","odd.name":"x","pod":"a"},"value":[600,"0.1"]}],"stats":{"timings":{},"samples":{"totalQueryableSamples":31,"peakSamples":31}}}}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=vector(NaN)"), @r#"200 {"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[600,"NaN"]}]}}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=absent_here"), @r#"200 {"status":"success","data":{"resultType":"vector","result":[]}}"#);
}

#[test]
fn range_queries() {
    insta::assert_snapshot!(get("/api/v1/query_range?query=sum(http_requests_total)&start=0&end=60&step=30"), @r#"200 {"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0,"0"],[30,"93"],[60,"186"]]}]}}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&start=0&end=60&step=1m"), @r#"200 {"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0,"1"],[60,"1"]]}]}}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&start=60&end=0&step=1m"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"end\": end timestamp must not be before start time"}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&start=0&end=60&step=0"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&start=0&end=60&step=-5s"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": cannot parse \"-5s\" to a valid duration"}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&start=0&end=60"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": cannot parse \"\" to a valid duration"}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&end=60&step=1"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"start\": cannot parse \"\" to a valid timestamp"}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=1&start=0&end=11000&step=1"), @r#"400 {"status":"error","errorType":"bad_data","error":"exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"}"#);
    insta::assert_snapshot!(get("/api/v1/query_range?query=\"a\"&start=0&end=1&step=1"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": invalid expression type \"string\" for range query, must be Scalar or instant Vector"}"#);
}

#[test]
fn bad_queries() {
    insta::assert_snapshot!(get("/api/v1/query"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:1: parse error: no expression found in input"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=sum("), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:5: parse error: unexpected end of input"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=1&time=yesterday"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"time\": cannot parse \"yesterday\" to a valid timestamp"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=1&timeout=abc"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"timeout\": cannot parse \"abc\" to a valid duration"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=1&limit=-1"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"limit\": \"-1\" is not a number from 0 on"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=%zz"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid URL escape in a parameter"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=%ff"), @r#"400 {"status":"error","errorType":"bad_data","error":"a parameter is not valid UTF-8"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=http_requests_total+*+on(code)+http_requests_total"), @r#"422 {"status":"error","errorType":"execution","error":"found duplicate series for the match group {code=\"200\"} on the right hand-side of the operation: [{__name__=\"http_requests_total\", code=\"200\", \"odd.name\"=\"x\", pod=\"a\"}, {__name__=\"http_requests_total\", code=\"200\", \"odd.name\"=\"x\", pod=\"b\"}];many-to-many matching not allowed: matching labels must be unique on one side"}"#);
    insta::assert_snapshot!(get("/api/v1/query?query=a{b=~\"(\"}"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:3: parse error: error parsing regexp: missing closing ): `(`"}"#);
}

#[test]
fn what_is_there() {
    insta::assert_snapshot!(get("/api/v1/labels"), @r#"200 {"status":"success","data":["__name__","code","odd.name","pod"]}"#);
    insta::assert_snapshot!(get("/api/v1/labels?match[]=nothing"), @r#"200 {"status":"success","data":[]}"#);
    insta::assert_snapshot!(get("/api/v1/labels?limit=2"), @r#"200 {"status":"success","data":["__name__","code"],"warnings":["results truncated due to limit"]}"#);
    insta::assert_snapshot!(get("/api/v1/label/code/values"), @r#"200 {"status":"success","data":["200","500"]}"#);
    insta::assert_snapshot!(get("/api/v1/label/code/values?match[]=http_requests_total{pod=\"b\"}"), @r#"200 {"status":"success","data":["200"]}"#);
    insta::assert_snapshot!(get("/api/v1/label/U__odd_2e_name/values"), @r#"200 {"status":"success","data":["x"]}"#);
    insta::assert_snapshot!(get("/api/v1/label//values"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid label name: \"\""}"#);
    insta::assert_snapshot!(post("/api/v1/series", "match[]=%7Bcode%3D%22500%22%7D"), @r#"200 {"status":"success","data":[{"__name__":"http_requests_total","code":"500","odd.name":"x","pod":"a"}]}"#);
    insta::assert_snapshot!(get("/api/v1/series?match[]={code=\"500\"}&start=601"), @r#"200 {"status":"success","data":[]}"#);
    insta::assert_snapshot!(get("/api/v1/series"), @r#"400 {"status":"error","errorType":"bad_data","error":"no match[] parameter provided"}"#);
    insta::assert_snapshot!(get("/api/v1/series?match[]={code=~\".*\"}"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"match[]\": 1:1: parse error: match[] must contain at least one non-empty matcher"}"#);
    insta::assert_snapshot!(get("/api/v1/series?match[]=}"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"match[]\": 1:1: parse error: unexpected \"}\", expected selector"}"#);
    insta::assert_snapshot!(get("/api/v1/series?match[]=a&start=5&end=4"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"end\": end timestamp must not be before start time"}"#);
}

#[test]
fn the_rest() {
    insta::assert_snapshot!(get("/api/v1/format_query?query=sum(x)by(y)"), @r#"200 {"status":"success","data":"sum by (y) (x)"}"#);
    insta::assert_snapshot!(get("/api/v1/rules"), @r#"200 {"status":"success","data":{"groups":[]}}"#);
    insta::assert_snapshot!(get("/api/v1/alerts"), @r#"200 {"status":"success","data":{"alerts":[]}}"#);
    insta::assert_snapshot!(get("/api/v1/targets"), @r#"200 {"status":"success","data":{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{}}}"#);
    insta::assert_snapshot!(get("/api/v1/targets?state=odd"), @r#"400 {"status":"error","errorType":"bad_data","error":"invalid parameter \"state\": \"odd\" is not active, dropped or any"}"#);
    insta::assert_snapshot!(get("/api/v1/metadata"), @r#"200 {"status":"success","data":{}}"#);
    insta::assert_snapshot!(get("/api/v1/status/buildinfo"), @r#"200 {"status":"success","data":{"version":"3.5.0","revision":"evenkeel-0.1.0","branch":"","buildUser":"","buildDate":"","goVersion":""}}"#);
    insta::assert_snapshot!(get("/-/healthy"), @"200 evenkeel telemetry is Healthy.");
    insta::assert_snapshot!(get("/-/ready"), @"200 evenkeel telemetry is Ready.");
    // Grafana takes anything else for a sign of another product.
    insta::assert_snapshot!(get("/api/v1/rules/test/test"), @"404 404 page not found");
    insta::assert_snapshot!(get("/"), @"404 404 page not found");
    let put = Request::builder().method(Method::PUT).uri("/api/v1/query").body(Bytes::new());
    insta::assert_snapshot!(send(&put.unwrap()), @"405 Method Not Allowed");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, ..Default::default() })]
    /// Any parameters get an answer in the envelope, never a panic.
    #[test]
    fn no_request_breaks_the_api(
        endpoint in "query|query_range|series|labels|label/a/values|rules|targets|metadata|format_query",
        params in "(&(query|start|end|step|time|match\\[\\]|limit|type|timeout)=[a-z0-9.%(){}\\[\\]=~+-]{0,8}){0,5}",
    ) {
        let uri = format!("/api/v1/{endpoint}?{params}").replace('{', "%7B").replace('}', "%7D");
        let request = Request::get(uri).body(Bytes::new()).unwrap();
        let response = api::handle(&telemetry(), &request, second(600));
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let status = if response.status() == 200 { "success" } else { "error" };
        proptest::prop_assert_eq!(body["status"].as_str(), Some(status));
    }
}
