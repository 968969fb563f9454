//! Queries with `{{ name }}` in them.

use evenkeel_control::redact;

/// What a query may name besides `variables.NAME`.
const PLACEHOLDERS: [&str; 7] =
    ["name", "namespace", "target", "service", "ingress", "route", "interval"];

/// Fills `{{ name }}` and its like in by what `words` has for each of [`PLACEHOLDERS`].
pub(crate) fn filled<'a>(
    query: &str,
    variables: &'a [(String, String)],
    words: impl Fn(&str) -> &'a str,
) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = query;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            return Err("{{ is not closed in the query: write }} after the name".to_owned());
        };
        filled.push_str(before);
        let name = name.trim().trim_start_matches('.');
        let variable = |wanted| variables.iter().find(|(name, _)| name == wanted);
        let value = match name.strip_prefix("variables.") {
            Some(wanted) => variable(wanted).map(|(_, value)| value.as_str()),
            None => PLACEHOLDERS.contains(&name).then(|| words(name)),
        };
        filled.push_str(value.ok_or_else(|| {
            format!(
                "{} is not known in the query: use {}, or variables.NAME with NAME in \
                 templateVariables",
                redact::quote(name),
                PLACEHOLDERS.join(", ")
            )
        })?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Why a query can never be asked, whatever Canary it is asked for.
pub(crate) fn query_problem(query: &str, variables: &[(String, String)]) -> Option<String> {
    match filled(query, variables, |_| "x") {
        Ok(query) if query.is_empty() => Some("the query is empty: write PromQL".to_owned()),
        Ok(_) => None,
        Err(problem) => Some(problem),
    }
}
