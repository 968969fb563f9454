use super::*;
use insta::assert_snapshot;

fn row(text: &str) -> String {
    let labels = Labels::from_pairs([("job", "api"), ("instance", "web.example:9100")]);
    let external = Labels::from_pairs([("cluster", "eu")]);
    let query = |text: &str| -> Result<Vec<(Labels, f64)>, String> {
        let labels = |i: &str| Labels::from_pairs([("i", i), ("q", text)]);
        Ok(vec![(labels("2"), 5.0), (labels("1"), 1_500_000.0)])
    };
    let scope = Scope { query: Some(&query), ..Scope::alert(&labels, &external, 0.012_345_6, "") };
    render(text, &scope).unwrap_or_else(|e| e.to_string())
}

#[test]
fn alert_templates_render() {
    assert_snapshot!(row("(page) {{$labels.job}} {{ $labels.nope }}is at {{ $value }}"), @"(page) api is at 0.0123456");
    assert_snapshot!(row("{{ toDuration 5400 }} {{ toDuration 12.5 }} {{ toDuration 0.0015 }} {{ toDuration -61 }} {{ toDuration 0 }}"), @"1h30m0s 12.5s 1.5ms -1m1s 0s");
    assert_snapshot!(row(r#"?q={{ urlquery "a b&c" 1 }} {{ html "<a href='x'>" }}"#), @"?q=a+b%26c1 &lt;a href=&#39;x&#39;&gt;");
    assert_snapshot!(row("{{ $value | humanizePercentage }} {{ humanize 1234567.0 }} {{ humanizeDuration 93784 }}"), @"1.235% 1.235M 1d 2h 3m 4s");
    assert_snapshot!(row(r#"{{ printf "%.2f|%5d|%-4s|%q|%v" $value 42 "a" "b" .Labels.job }}"#), @r#"0.01|   42|a   |"b"|api"#);
    assert_snapshot!(row("{{ if gt $value 0.5 }}high{{ else if eq $labels.job \"api\" }}api{{ else }}low{{ end }}"), @"api");
    assert_snapshot!(row("{{ range query \"up\" | sortByLabel \"i\" }}{{ .Labels.i }}={{ .Value }} {{ end }}"), @"1=1.5e+06 2=5");
    assert_snapshot!(row("{{ with $x := query \"up\" }}{{ $x | first | value }}{{ end }}{{/* gone */}}"), @"5");
    assert_snapshot!(row("a {{- \" b \" -}} c {{ $labels.instance | stripPort | stripDomain | toUpper }}"), @"a b c WEB");
    assert_snapshot!(row("{{ $externalLabels.cluster }} {{ 1700000000 | humanizeTimestamp }}"), @"eu 2023-11-14 22:13:20 +0000 UTC");
    assert_snapshot!(row("{{ humanize 0.00123 }} {{ humanize1024 2048 }} {{ humanizeDuration 0.5 }} {{ title \"a bc\" }}"), @"1.23m 2ki 500ms A Bc");
}

#[test]
fn errors_tell_the_line() {
    assert_snapshot!(row("a\n{{ nope }}"), @r#"line 2: function "nope" not defined"#);
    assert_snapshot!(row("{{ if true }}x"), @"line 1: {{if}} has no end");
    assert_snapshot!(row("{{ $x }}"), @r#"line 1: undefined variable "$x""#);
    assert_snapshot!(row("{{ "), @"line 1: unclosed action");
    assert_snapshot!(row("{{ end }}"), @"line 1: unexpected {{end}}");
}

#[test]
fn templates_that_explode_are_refused() {
    let doubled = format!("{{{{ $x := \"abcdefgh\" }}}}{}", "{{ $x = print $x $x }}".repeat(60));
    let nested = |body: &str| {
        let (open, close) = ("{{ range query \"up\" }}".repeat(40), "{{ end }}".repeat(40));
        format!("{open}{body}{close}")
    };
    let replaced = "{{ $x := \"aaaaaaaa\" }}".to_owned()
        + &"{{ $x = reReplaceAll \"(.*)\" \"$1$1$1$1$1$1$1$1\" $x }}".repeat(40);
    let maps = "{{ $x := 1 }}".to_owned() + &"{{ $x = args $x $x }}".repeat(60);
    for (text, reason) in [
        (doubled, "exceed 16777216 bytes"),
        (nested("x"), "handles more than"),
        (nested("{{ $y := 1 }}"), "handles more than"),
        (replaced, "reReplaceAll would write more than"),
        (maps, "exceed 16777216 bytes"),
    ] {
        assert!(row(&text).contains(reason), "{reason}: {}", row(&text));
    }
}

#[test]
fn missing_keys_can_be_errors() {
    let scope = Scope {
        root: Data::Map([("window".to_owned(), Data::Text("5m".to_owned()))].into()),
        missing: Missing::Error,
        ..Scope::default()
    };
    assert_eq!(render("rate(x[{{.window}}])", &scope).as_deref(), Ok("rate(x[5m])"));
    let error = render("{{.Window}}", &scope).unwrap_err().to_string();
    assert_snapshot!(error, @r#"line 1: map has no entry for key "Window""#);
}

proptest::proptest! {
    #[test]
    fn no_template_panics(text in r#"(\{\{|\}\}|-| |if|else|end|range|\$x|\.a|:=|printf|"%.3f"|[0-9]|\(|\)|\||`|é){0,20}"#) {
        let _outcome = render(&text, &Scope::alert(&Labels::empty(), &Labels::empty(), 1.0, ""));
    }
}
