use evenkeel_promql::{
    matcher::{MatchOp, Matcher},
    number::format_float,
    storage::{Storage, TimeRange},
};

use super::*;

struct Bench {
    store: SeriesStore,
    intake: Intake,
    target: Target,
    settings: ScrapeSettings,
    at_ms: i64,
}

impl Bench {
    fn new() -> Self {
        let target = Target::fixed("app", "http://127.0.0.1:1/metrics");
        Self {
            store: SeriesStore::new(),
            intake: Intake::default(),
            target,
            settings: ScrapeSettings::default(),
            at_ms: 0,
        }
    }

    /// Scrapes a second later; the outcome in a word or two.
    fn scrape(&mut self, text: &str, format: Format) -> String {
        self.at_ms += 1000;
        let from = (&self.target, &self.settings);
        match self.intake.take(&mut self.store, from, (text, format), self.at_ms) {
            Ok(Taken { samples, refused, added }) => format!("{samples} -{refused} +{added}"),
            Err(error) => {
                self.intake.lose(&mut self.store, self.at_ms);
                error.to_string()
            }
        }
    }

    fn text(&mut self, text: &str) -> String {
        self.scrape(text, Format::Text)
    }

    /// Every series with its samples: `t=value`, `~` for an end marker.
    fn dump(&self) -> String {
        let all = Matcher::new("__name__", MatchOp::Regex, ".+").unwrap();
        let range = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };
        let mut rows: Vec<String> = self
            .store
            .select(&[all], range, evenkeel_promql::storage::Needs::All)
            .unwrap()
            .iter()
            .map(row)
            .collect();
        rows.sort();
        rows.join("\n")
    }
}

fn row(series: &evenkeel_promql::storage::SelectedSeries<'_>) -> String {
    let samples = &series.samples;
    let points: Vec<String> = (0..samples.len())
        .map(|i| {
            let value =
                if samples.is_stale(i) { "~".to_owned() } else { format_float(samples.floats[i]) };
            format!("{}={value}", samples.times[i])
        })
        .collect();
    let labels = series.labels.drop(&["instance", "job"]);
    format!("{labels} {}", points.join(" "))
}

#[test]
fn a_series_that_vanishes_ends_with_a_marker() {
    let mut bench = Bench::new();
    assert_eq!(bench.text("a 1\nb{c=\"d\"} 2\n"), "2 -0 +2");
    assert_eq!(bench.text("a 2\nb{c=\"d\"} 2\n"), "2 -0 +0");
    assert_eq!(bench.text("a 3\n"), "1 -0 +0");
    assert_eq!(bench.text("a 4\nb{c=\"d\"} 5\n"), "2 -0 +1");
    insta::assert_snapshot!(bench.dump(), @r#"
    {__name__="a"} 1000=1 2000=2 3000=3 4000=4
    {__name__="b", c="d"} 1000=2 2000=2 3000=~ 4000=5
    "#);
}

#[test]
fn a_counter_that_appears_at_a_known_target_begins_with_zero() {
    let mut bench = Bench::new();
    let types = "# TYPE hits counter\n# TYPE took histogram\n# TYPE temp gauge\n";
    bench.text(&format!("{types}hits{{code=\"200\"}} 70\n"));
    bench.text(&format!(
        "{types}hits{{code=\"200\"}} 80\nhits{{code=\"500\"}} 9\ntook_bucket{{le=\"1\"}} 3\n\
         took_count 3\ntook_sum 2.5\ntemp 20\nuntyped_total 4\nuntyped 5\nstamped_total 6 1500\n\
         restored_total 1000001\n"
    ));
    insta::assert_snapshot!(bench.dump(), @r#"
    {__name__="hits", code="200"} 1000=70 2000=80
    {__name__="hits", code="500"} 1000=0 2000=9
    {__name__="restored_total"} 2000=1000001
    {__name__="stamped_total"} 1500=6
    {__name__="temp"} 2000=20
    {__name__="took_bucket", le="1.0"} 1000=0 2000=3
    {__name__="took_count"} 1000=0 2000=3
    {__name__="took_sum"} 1000=0 2000=2.5
    {__name__="untyped"} 2000=5
    {__name__="untyped_total"} 1000=0 2000=4
    "#);
}

#[test]
fn a_counter_seen_before_does_not_begin_again() {
    let mut bench = Bench::new();
    bench.text("a_total 1\nb_total 7\n");
    // One that vanishes, then a scrape without an answer.
    bench.text("a_total 2\n");
    bench.text("a_total 3\nb_total 8\n");
    bench.text("nonsense");
    bench.text("a_total 4\nb_total 9\nc_total 5\n");
    insta::assert_snapshot!(bench.dump(), @r#"
    {__name__="a_total"} 1000=1 2000=2 3000=3 4000=~ 5000=4
    {__name__="b_total"} 1000=7 2000=~ 3000=8 4000=~ 5000=9
    {__name__="c_total"} 3000=0 5000=5
    "#);
}

#[test]
fn a_failed_scrape_ends_everything_once_and_stores_nothing_of_it() {
    let mut bench = Bench::new();
    bench.text("a 1\n");
    insta::assert_snapshot!(bench.text("a 2\nb 1\nc{ 3\n"), @"the exposition is malformed: line 3, column 4: expected a label name, found `3`");
    bench.text("nonsense\n");
    bench.text("a 4\n");
    insta::assert_snapshot!(bench.dump(), @r#"{__name__="a"} 1000=1 2000=~ 4000=4"#);
}

#[test]
fn samples_with_times_of_their_own_keep_them_and_get_no_marker() {
    let mut bench = Bench::new();
    assert_eq!(bench.text("a 1 500\n"), "1 -0 +1");
    assert_eq!(bench.text("a 1 400\n"), "1 -1 +0");
    assert_eq!(bench.text("a 1 9999999\n"), "1 -1 +0");
    assert_eq!(bench.text(""), "0 -0 +0");
    insta::assert_snapshot!(bench.dump(), @r#"{__name__="a"} 500=1"#);
}

#[test]
fn one_series_in_two_spellings_is_one_series() {
    let mut bench = Bench::new();
    assert_eq!(bench.text("a{b=\"1\",c=\"2\"} 1\n"), "1 -0 +1");
    assert_eq!(bench.text("a{c=\"2\",b=\"1\"} 2\n"), "1 -0 +1");
    assert_eq!(bench.text("a{c=\"2\",b=\"1\"} 3\na{b=\"1\",c=\"2\"} 4\n"), "2 -1 +1");
    insta::assert_snapshot!(bench.dump(), @r#"{__name__="a", b="1", c="2"} 1000=1 2000=2 3000=3"#);
}

#[test]
fn labels_of_the_target_win_unless_it_is_trusted() {
    let mut bench = Bench::new();
    bench.target.labels = Labels::from_pairs([("pod", "p"), ("exported_job", "x")]);
    bench.text("a{pod=\"q\",exported_job=\"y\"} 1\n");
    bench.target.honor_labels = true;
    bench.text("b{pod=\"q\"} 1\n");
    insta::assert_snapshot!(bench.dump(), @r#"
    {__name__="a", exported_exported_job="y", exported_job="x", exported_pod="q", pod="p"} 1000=1 2000=~
    {__name__="b", exported_job="x", pod="q"} 2000=1
    "#);
}

#[test]
fn open_metrics_is_read_with_exemplars_and_its_end() {
    let mut bench = Bench::new();
    let om = Format::OpenMetrics;
    let text = "# TYPE a counter\n# HELP a Hits.\na_total 1 # {id=\"7\"} 1\nb 2 1.5\n# EOF\n";
    assert_eq!(bench.scrape(text, om), "2 -0 +2");
    assert_eq!(bench.scrape(&text.replace('7', "8"), om), "2 -0 +0");
    insta::assert_snapshot!(bench.scrape("a_total 1\n", om), @"the exposition is malformed: line 2, column 1: the text does not end with `# EOF`");
    insta::assert_snapshot!(bench.dump(), @r#"
    {__name__="a_total"} 1000=1 2000=1 3000=~
    {__name__="b"} 1500=2
    "#);
    let family = &bench.intake.families()["a"];
    assert_eq!((family.kind, family.help.as_str()), (Kind::Counter, "Hits."));
}

#[test]
fn the_metadata_of_a_target_is_bounded() {
    let mut bench = Bench::new();
    let help = format!("# HELP m0 {}\n", "é".repeat(100_000));
    let types: Vec<_> = (0..FAMILIES_MAX + 10).map(|n| format!("# TYPE m{n} counter\n")).collect();
    let types = types.concat();
    assert_eq!(bench.text(&format!("{help}{types}")), "0 -0 +0");
    assert_eq!(bench.intake.families().len(), FAMILIES_MAX);
    let longest = bench.settings.label_bytes_max;
    assert_eq!(bench.intake.families()["m0"].help.len(), longest);
    assert!(bench.intake.comments.iter().all(|line| line.len() <= COMMENT_BYTES_MAX));
}

#[test]
fn limits_are_errors_that_name_the_line() {
    let mut bench = Bench::new();
    bench.settings =
        ScrapeSettings { samples_max: 2, labels_max: 5, label_bytes_max: 20, ..bench.settings };
    insta::assert_snapshot!(bench.text("a 1\nb 1\nc 1\n"), @"the exposition has more than 2 samples");
    insta::assert_snapshot!(bench.text("a 1\nb{c=\"1\",d=\"2\",e=\"3\"} 1\n"), @"line 2: 6 labels with the target's own, at most 5 are taken");
    insta::assert_snapshot!(bench.text("b{c=\"123456789012345678901\"} 1\n"), @"line 1: label c has 21 bytes, at most 20 are taken");
    insta::assert_snapshot!(bench.text("b{c23456789012345678901=\"1\"} 1\n"), @"line 1: label c2345678901234567890 has 21 bytes, at most 20 are taken");
    bench.store = SeriesStore::with_limit(1);
    insta::assert_snapshot!(bench.text("a 1\nb 1\n"), @r#"line 2: the store holds its 1 series, {__name__="b", instance="127.0.0.1:1", job="app"} is one more"#);
    insta::assert_snapshot!(bench.dump(), @"");
}

#[test]
fn pruned_series_come_back() {
    let mut bench = Bench::new();
    bench.text("a 1\n");
    bench.store.prune(5000);
    assert_eq!(bench.text("a 2\n"), "1 -0 +0");
    insta::assert_snapshot!(bench.dump(), @r#"{__name__="a"} 2000=2"#);
}

#[test]
fn the_report_describes_the_scrape_and_ends_with_the_target() {
    let mut bench = Bench::new();
    bench.text("a 1\n");
    let taken = Taken { samples: 1, refused: 0, added: 1 };
    let report = Report { up: true, took: Duration::from_millis(20), taken };
    bench.intake.report(&mut bench.store, &bench.target, report, bench.at_ms);
    bench.intake.retire(&mut bench.store, 2000);
    insta::assert_snapshot!(bench.dump(), @r#"
    {__name__="a"} 1000=1 2000=~
    {__name__="scrape_duration_seconds"} 1000=0.02 2000=~
    {__name__="scrape_samples_post_metric_relabeling"} 1000=1 2000=~
    {__name__="scrape_samples_scraped"} 1000=1 2000=~
    {__name__="scrape_series_added"} 1000=1 2000=~
    {__name__="up"} 1000=1 2000=~
    "#);
}

proptest::proptest! {
    /// Any text is read or refused, without a panic; a second time gives the same series.
    #[test]
    fn no_text_breaks_the_intake(text in "([a-b#{}\",= \\\\\n\t0-9.-]|TYPE |HELP |EOF|NaN){0,60}") {
        for format in [Format::Text, Format::OpenMetrics] {
            let mut bench = Bench::new();
            let first = bench.scrape(&text, format);
            let series = bench.store.len();
            let second = bench.scrape(&text, format);
            proptest::prop_assert_eq!(bench.store.len(), series);
            proptest::prop_assert_eq!(first.split(' ').next(), second.split(' ').next());
        }
    }
}
