//! SLO manifests of every kind, and error-budget policies.

use evenkeel_promql::rules::RuleFile;
use evenkeel_slo::policy::{BreakGlass, ErrorBudgetPolicy};
use evenkeel_slo::{Input, Options, Reading, budget, export_sloth, generate, lint};

/// Feeds one input: the text of a file.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let inputs = [Input { name: "x".to_owned(), text: text.clone() }];
    let options = Options { budget_series: true, ..Options::default() };
    let linted = lint(&inputs, &options);
    let generated = generate(&inputs, &options);
    let strict = Options { reading: Reading::Sloth, ..Options::default() };
    drop(generate(&inputs, &strict));
    if let Ok(output) = &generated {
        let yaml = output.to_yaml();
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&yaml).expect("what is generated is YAML");
        let written = documents.iter().filter(|d| !d.is_null());
        assert_eq!(written.clone().count(), output.sets.len(), "one document per set:\n{yaml}");
        for document in written {
            let groups = document.pointer("/spec/groups").or_else(|| document.get("groups"));
            let groups = serde_json::json!({ "groups": groups });
            // The unit tests of the generator cover which rules; here only that they can be read.
            let refused = RuleFile::parse(&groups.to_string()).err();
            assert_eq!(refused, None, "generated rules can be loaded:\n{yaml}");
        }
        for slo in output.groups.iter().flat_map(|g| &g.slos) {
            drop(budget::counter_sources(slo));
        }
    }
    if let Ok(output) = generated
        && !linted.failed()
        && let Ok((exported, _)) = export_sloth(&inputs, &options)
        && let Some(window) = output.groups.first().and_then(|g| g.slos.first()).map(|s| s.window)
    {
        let again = [Input { name: "y".to_owned(), text: exported.clone() }];
        let options = Options { default_window: window, ..options };
        let refused = generate(&again, &options).err();
        assert!(refused.is_none(), "an export can be generated from: {refused:?}\n{exported}");
    }
    policy(&text);
}

fn policy(text: &str) {
    let Ok(value) = serde_saphyr::from_str::<serde_json::Value>(text) else { return };
    if let Ok(policy) = ErrorBudgetPolicy::from_value(&value) {
        let glass = value.get("breakGlass").unwrap_or(&value);
        let _refused = BreakGlass::from_spec(glass, &policy).is_err();
    }
    let _refused = budget::Exclusion::from_spec(&value).is_err();
}
