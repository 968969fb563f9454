use super::*;
use insta::assert_snapshot;

fn rows(text: &str, format: Format) -> String {
    match parse(text, format) {
        Ok(exposition) => exposition
            .samples
            .iter()
            .map(|s| {
                let at = s.t_ms.map(|t| format!(" @{t}")).unwrap_or_default();
                let ex = s.exemplar.as_ref().map(|e| format!(" # {} {}", e.labels, e.value));
                format!("{} {}{at}{}", s.labels, s.value, ex.unwrap_or_default())
            })
            .collect::<Vec<_>>()
            .join("\n"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn text_lines_become_samples() {
    let text = "# HELP up is it \\\\ up\\n?\n# TYPE up gauge\n\n# just a comment\n\
        up{job=\"a\\\"b\\\\c\\nd\",} 1 1234\nplain NaN\nb_bucket{le=\"1\"} +Inf\n{\"utf.8\",a=\"b\"} -1.5e3\n";
    assert_snapshot!(rows(text, Format::Text), @r#"
    {__name__="up", job="a\"b\\c\nd"} 1 @1234
    {__name__="plain"} NaN
    {__name__="b_bucket", le="1.0"} inf
    {__name__="utf.8", a="b"} -1500
    "#);
    let up = parse(text, Format::Text).unwrap().families["up"].clone();
    assert_eq!((up.kind, up.help.as_str()), (Kind::Gauge, "is it \\ up\n?"));
}

#[test]
fn openmetrics_has_seconds_exemplars_and_an_end() {
    let text = "# TYPE a counter\n# UNIT a seconds\na_total{x=\"y\"} 5 1.5 # {trace_id=\"t\"} 0.3 1.4\n# EOF\n";
    assert_snapshot!(rows(text, Format::OpenMetrics), @r#"{__name__="a_total", x="y"} 5 @1500 # {trace_id="t"} 0.3"#);
    assert_snapshot!(rows("a 1\n", Format::OpenMetrics), @"line 2, column 1: the text does not end with `# EOF`");
    assert_snapshot!(rows("# EOF\na 1\n", Format::OpenMetrics), @"line 2, column 1: there is text after `# EOF`");
}

#[test]
fn malformed_lines_are_reported_with_their_place() {
    let row = |text: &str| rows(text, Format::Text);
    assert_snapshot!(row("ok 1\na{b=\"c\" 1\n"), @"line 2, column 9: expected `}`, found `1`");
    assert_snapshot!(row("a{b=\"c"), @"line 1, column 7: the quoted text does not end");
    assert_snapshot!(row("a{b=\"c\",b=\"d\"} 1"), @"line 1, column 9: label `b` appears twice");
    assert_snapshot!(row("a one"), @"line 1, column 3: `one` is not a value");
    assert_snapshot!(row("a 1 2.5"), @"line 1, column 5: `2.5` is not a timestamp");
    assert_snapshot!(row("a"), @"line 1, column 2: expected a value, the line ends");
    assert_snapshot!(row("9a 1"), @"line 1, column 1: expected a metric name, found `9`");
    assert_snapshot!(row("# TYPE a thing"), @"line 1, column 10: unknown type `thing`");
}

#[test]
fn what_is_written_is_read_again() {
    let mut writer = Writer::new();
    writer.family("hits_total", Kind::Counter, "all \\ hits\nhere");
    writer.sample("hits_total", &[("path", "/\"a\"\n")], 3.0);
    writer.family("took.seconds", Kind::Histogram, "");
    writer.histogram(
        "took.seconds",
        &[],
        BucketCounts { bounds: &[0.1, 1.0], counts: &[1, 2, 3], sum: 9.5 },
    );
    let text = writer.finish();
    assert_snapshot!(rows(&text, Format::Text), @r#"
    {__name__="hits_total", path="/\"a\"\n"} 3
    {__name__="took.seconds_bucket", le="0.1"} 1
    {__name__="took.seconds_bucket", le="1.0"} 3
    {__name__="took.seconds_bucket", le="+Inf"} 6
    {__name__="took.seconds_sum"} 9.5
    {__name__="took.seconds_count"} 6
    "#);
    assert_eq!(parse(&text, Format::Text).unwrap().families["took.seconds"].kind, Kind::Histogram);
}

proptest::proptest! {
    #[test]
    fn no_exposition_panics(text in "[a-c{}\"=,\\\\# \n0-9.eE+\\-NTHEOFé]{0,80}") {
        for format in [Format::Text, Format::OpenMetrics] {
            let _outcome = parse(&text, format);
        }
    }
}
