use super::parse;
use insta::assert_snapshot;

fn row(text: &str) -> String {
    match parse(text) {
        Ok(query) => query.expr.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn expressions_print_in_one_spelling() {
    assert_snapshot!(row("SUM BY (job) (rate(http_requests_total{code=~'5..'}[5m]))"), @r#"sum by (job) (rate(http_requests_total{code=~"5.."}[5m]))"#);
    assert_snapshot!(row("a / on(x) group_left(y) fill(0) b"), @"a / on (x) group_left (y) fill (0) b");
    assert_snapshot!(row("-a^2 + 3 * b % c or d"), @"-a ^ 2 + 3 * b % c or d");
    assert_snapshot!(row(r#"{"my.metric", "a.b"="c"}[1h:5m] @ 10 offset -1w"#), @r#"{"my.metric","a.b"="c"}[1h:5m] @ 10.000 offset -1w"#);
    assert_snapshot!(row("foo[step()+2*5m] offset (range()) anchored"), @"foo[step() + 2 * 5m] anchored offset (range())");
    assert_snapshot!(row("1 > bool 0x1f + 1_000"), @"1 > bool 31 + 1000");
    assert_snapshot!(row("count_values without () ('v', fill)"), @r#"count_values without () ("v", fill)"#);
}

#[test]
fn errors_tell_place_and_reason() {
    assert_snapshot!(row(""), @"1:1: parse error: no expression found in input");
    assert_snapshot!(row("rate(foo)"), @r#"1:6: parse error: expected type range vector in call to function "rate", got instant vector"#);
    assert_snapshot!(row("foo and 1"), @r#"1:1: parse error: set operator "and" not allowed in binary scalar expression"#);
    assert_snapshot!(row("1 == 1"), @"1:1: parse error: comparisons between scalars must use BOOL modifier");
    assert_snapshot!(row("{a=~\".*\"}"), @"1:1: parse error: vector selector must contain at least one non-empty matcher");
    assert_snapshot!(row("nope(1)"), @r#"1:1: parse error: unknown function with name "nope""#);
    assert_snapshot!(row("foo[5m"), @r#"1:7: parse error: unexpected end of input in subquery or range selector, expected "]""#);
    assert_snapshot!(row("foo{a=\"b\"\n  }}"), @r#"2:4: parse error: unexpected "}""#);
    assert_snapshot!(row("sum(rate(x[5m])"), @"1:16: parse error: unexpected end of input");
    assert_snapshot!(row("foo offset 1m offset 2m"), @"1:1: parse error: offset may not be set multiple times");
    assert_snapshot!(row("a{b=~\"(\"}"), @"1:3: parse error: error parsing regexp: missing closing ): `(`");
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(row(&deep).contains("nested too deeply"));
    assert!(row(&"1+".repeat(100_000)).contains("nested too deeply"));
    assert!(row(&format!("{}x", "-".repeat(10_000))).contains("nested too deeply"));
}

proptest::proptest! {
    #[test]
    fn no_query_panics(text in r#"([a-c]|rate|sum|by|offset|@|and|on|fill|[0-9]|[(){}\[\],:"'=~!<>+*/%^.# -]|5m|\\x|é){0,30}"#) {
        let _outcome = parse(&text);
    }

    #[test]
    fn what_is_printed_is_read_again(text in r#"(a|b\{c="d"\}|rate\(a\[5m\]\)|1|2m)( (\+|-|\*|/|%|\^|or|and|unless|> bool) (a|sum by \(x\) \(b\)|-a)){0,4}"#) {
        if let Ok(query) = parse(&text) {
            let printed = query.expr.to_string();
            let again = parse(&printed).map(|q| q.expr.to_string());
            proptest::prop_assert_eq!(again.as_deref(), Ok(printed.as_str()));
        }
    }
}
