//! No input makes the readers panic, and what they accept they can write and read again.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use evenkeel_slo::policy::ErrorBudgetPolicy;
use evenkeel_slo::{Input, Options, export_sloth, generate, lint};
use proptest::prelude::*;

const SEEDS: [&str; 6] = [
    include_str!("fixtures/seed/article.yaml"),
    include_str!("fixtures/seed/corrected.yml"),
    include_str!("fixtures/sloth/examples/contrib-slo-plugins.yml"),
    include_str!("fixtures/sloth/examples/openslo-getting-started.yml"),
    include_str!("fixtures/sloth/examples/plugin-k8s-getting-started.yml"),
    include_str!("fixtures/sloth/examples/windows/7d.yaml"),
];
const PIECES: [&str; 24] = [
    "{{.window}}",
    "{{",
    "}}",
    "[5m]",
    "[",
    "]",
    "\"",
    "'",
    "é\u{0}",
    "---\n",
    ": ",
    "- ",
    "null",
    "1e309",
    "-1",
    "99999999999999999999",
    "0",
    "{}",
    "[[[[[[[[",
    "&a *a",
    "!!binary x",
    "|\n",
    "\t",
    "#",
];

fn check(text: &str) {
    let inputs = [Input { name: "x".to_owned(), text: text.to_owned() }];
    let options = Options { budget_series: true, ..Options::default() };
    let linted = lint(&inputs, &options);
    let generated = generate(&inputs, &options);
    if let Ok(output) = &generated {
        let yaml = output.to_yaml();
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        assert_eq!(documents.iter().filter(|d| !d.is_null()).count(), output.sets.len());
    }
    // What is generated without an error can be exported, unless lint alone objects.
    if let Ok(output) = generated
        && !linted.failed()
    {
        let (exported, _) = export_sloth(&inputs, &options).unwrap();
        let again = [Input { name: "y".to_owned(), text: exported.clone() }];
        let window = output.groups[0].slos[0].window;
        let options = Options { default_window: window, ..options };
        assert!(generate(&again, &options).is_ok(), "{exported}");
    }
}

prop_compose! {
    fn arb_edit()(at in any::<prop::sample::Index>(), piece in prop::sample::select(&PIECES[..]),
        cut in 0_usize..12) -> (prop::sample::Index, &'static str, usize) {
        (at, piece, cut)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn edited_manifests_never_panic(
        seed in prop::sample::select(&SEEDS[..]),
        edits in prop::collection::vec(arb_edit(), 1..4),
    ) {
        let mut chars: Vec<char> = seed.chars().collect();
        for (at, piece, cut) in edits {
            let at = at.index(chars.len() + 1).min(chars.len());
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        check(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        check(&text);
        let value = serde_json::json!({ "spec": { "selector": { "all": true }, "actions": text } });
        let _refused = ErrorBudgetPolicy::from_value(&value).is_err();
    }
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n\
                version: prometheus/v1\n";
    check(bomb);
    check(&"- ".repeat(100_000));
    check(&format!("a: {}", "[".repeat(100_000)));
    let deep = format!("{}x{}", "(".repeat(50_000), ")".repeat(50_000));
    let query = SEEDS[1].replace("sum(rate", &format!("{deep}+sum(rate"));
    check(&query);
}
