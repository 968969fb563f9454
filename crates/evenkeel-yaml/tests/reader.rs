//! Messages, typed reading and limits.

use std::collections::BTreeMap;

use evenkeel_yaml::{Error, Node, from_str, split};
use insta::assert_snapshot;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Rule {
    expr: String,
    limit: usize,
    ratio: f64,
    keep: bool,
    hold: Option<String>,
    labels: BTreeMap<String, String>,
    inputs: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only what is refused is looked at")]
struct Group {
    name: String,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[test]
fn text_fields_take_the_scalar_as_it_was_written() {
    let rule: Rule = from_str(
        "expr: 1\nlimit: 0x10\nratio: 2\nkeep: yes\nhold: ~\n\
         labels: {a: 1.10, b: yes, c: 017, d: , e: null, on: 'x', f: 2020-01-01}\ninputs:\n",
    )
    .unwrap();
    let labels = [
        ("a", "1.10"),
        ("b", "yes"),
        ("c", "017"),
        ("d", ""),
        ("e", ""),
        ("f", "2020-01-01"),
        ("on", "x"),
    ];
    let wanted = Rule {
        expr: "1".to_owned(),
        limit: 16,
        ratio: 2.0,
        keep: true,
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Rule::default()
    };
    assert_eq!(rule, wanted);
    assert_eq!(from_str::<Rule>("").unwrap(), Rule::default());
    assert!(from_str::<Rule>("limit:\nlabels:\nratio: .inf").unwrap().ratio.is_infinite());
}

fn render(outcome: Result<impl std::fmt::Debug, Error>) -> String {
    outcome.map_or_else(|error| error.to_string(), |value| format!("{value:?}"))
}

#[test]
fn errors_name_line_field_and_what_to_write() {
    let group = |text: &str| render(from_str::<Group>(text));
    let rule = |text: &str| group(&format!("name: a\nrules:\n- expr: x\n  {text}\n"));
    assert_snapshot!(rule("limit: many"), @r#"line 4: field rules[0].limit: must be a whole number, not the text "many""#);
    assert_snapshot!(rule("limit: -1"), @"line 4: field rules[0].limit: invalid value: integer `-1`, expected usize");
    assert_snapshot!(rule("keep: 'yes'"), @r#"line 4: field rules[0].keep: must be true or false, not the text "yes""#);
    assert_snapshot!(rule("ratio: n"), @"line 4: field rules[0].ratio: must be a number, not n, which YAML reads as the boolean false");
    assert_snapshot!(rule("labels: [a]"), @"line 4: field rules[0].labels: must be a mapping, not a list");
    assert_snapshot!(rule("labels:\n    a/b: {c: d}"), @r#"line 5: field rules[0].labels["a/b"]: must be a text, not a mapping"#);
    assert_snapshot!(rule("inputs: x"), @r#"line 4: field rules[0].inputs: must be a list, not the text "x""#);
    assert_snapshot!(rule("Expr: x"), @"line 4: field rules[0]: field Expr is not known here; write expr");
    assert_snapshot!(rule("colour: red"), @"line 4: field rules[0]: field colour is not known here; known are expr, limit, ratio, keep, hold, labels, inputs");
    assert_snapshot!(rule("expr: y"), @"line 4: field rules[0].expr: is given twice, first in line 3");
    assert_snapshot!(group("rules: []"), @"line 1: has no name");
    assert_snapshot!(group("- a"), @"line 1: must be a mapping, not a list");
}

#[test]
fn syntax_errors_say_what_a_person_can_do() {
    let read = |text: &str| render(Node::parse(text).and_then(|node| node.json()));
    assert_snapshot!(read("a: b: c"), @"line 1: a value cannot have a colon and a blank in it: put it in quotes, or check the indentation");
    assert_snapshot!(read("a:\n  b: 1\n c: 2"), @"line 3: a key was expected here; check the indentation");
    assert_snapshot!(read("a: 1\nkind Pod\nb: 2"), @"line 2: a colon and a blank are missing behind the key");
    assert_snapshot!(read(" a: 1\nb: 2"), @"line 2: this line does not belong to what is above it: it is indented less than the first line, or has no key");
    assert_snapshot!(read("a:\n\tb: 1"), @"line 2: field a: a tab is used for indentation; use blanks");
    assert_snapshot!(read("a: [1, 2\nb: 3"), @"line 2: field a[1]: a colon cannot stand here: a bracket above is not closed, or the value needs quotes");
    assert_snapshot!(read("a: \"x"), @"line 1: field a: unclosed quote");
    assert_snapshot!(read("a: *x"), @"line 1: field a: the alias stands for no anchor above it");
    assert_snapshot!(read("x: &x [*x]"), @"line 1: field x[0]: the alias repeats a value that contains it");
    assert_snapshot!(read("a: {{ .Values.x }}"), @"line 1: field a: a mapping cannot be a key; a template that was not rendered?");
    assert_snapshot!(read("a: {? [b] : c}"), @"line 1: field a: a list cannot be a key");
    assert_snapshot!(read("a: .inf"), @"line 1: field a: JSON has no number .inf");
    assert_snapshot!(read("a: !!int x"), @r#"line 1: field a: "x" is not a !!int"#);
    assert_snapshot!(read("spec:\n- a: 1\n  b: 2\n  a: 3"), @"line 4: field spec[0].a: is given twice, first in line 2");
    assert_snapshot!(read("yes: 1\n'true': 2"), @"line 2: field true: is given twice, first in line 1");
    let documents = split("a: 1\n---\nb: {c\n").unwrap();
    assert_snapshot!(render(documents[1].parse()), @"line 3: field b: unclosed bracket '{'");
}

#[test]
fn hostile_texts_are_refused_at_once() {
    let laughs = (1..60).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |all, i| {
        all + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "))
    });
    let nested = (1..9_000)
        .fold("a0: &a0 [x]\n".to_owned(), |all, i| all + &format!("a{i}: &a{i} [*a{}]\n", i - 1));
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a, ".repeat(1 << 16));
    for (text, problem) in [
        (laughs, "aliases repeat more than 50000 values"),
        (nested, "aliases repeat more than 50000 values"),
        (long, "aliases repeat more than 50000 values"),
        ("[".repeat(100_000), "nested deeper than 128 levels"),
        ("- ".repeat(100_000), "nested deeper than 128 levels"),
        ("{a: ".repeat(100_000), "nested deeper than 128 levels"),
    ] {
        assert_eq!(Node::parse(&text).unwrap_err().problem, problem);
    }
}

#[test]
fn nodes_know_their_place() {
    let node = Node::parse("a:\n  - b: 1\n    yes: |\n      x\n").unwrap();
    assert_eq!(node.pointer("/a/0/b").map(Node::line), Some(2));
    assert_eq!(node.pointer("/a/0/true").and_then(Node::text), Some("x\n"));
    assert_eq!(node.pointer("/a/1"), None);
    let node = Node::parse("spec:\n  labels:\n    a.b/c: x\n  list:\n  - n: 1\n").unwrap();
    let place = |path: &str| {
        let place = node.locate(path);
        (place.line, place.whole, place.steps)
    };
    assert_eq!(place("spec.labels.a.b/c"), (3, true, 3));
    assert_eq!(place("spec.list[0].n"), (5, true, 4));
    assert_eq!(place("spec.list[1].n"), (4, false, 2));
    assert_eq!(place("other"), (1, false, 0));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in r#"([ \-:,?#&*!|>'"%@`{}\[\]\n\t~a1]|\\|<<: |\*a|&a |!!int |é|\r){0,40}"#) {
        let _outcome = Node::parse(&text).and_then(|node| node.json());
        let _outcome = from_str::<Group>(&text);
        let _outcome = split(&text);
    }
}
