use std::fmt::Write as _;

use evenkeel_control::ListQuery;

/// Adds a query's selectors to a URL that has a query part already.
pub(crate) fn push_selectors(path: &mut String, query: &ListQuery) {
    let labels: Vec<_> = query.labels.requirements.iter().map(selector_text).collect();
    if !labels.is_empty() {
        path.push_str("&labelSelector=");
        path.push_str(&escape(&labels.join(",")));
    }
    let field = |(path, value, equal): &(String, String, bool)| {
        format!("{path}{}{value}", if *equal { "=" } else { "!=" })
    };
    let fields: Vec<_> = query.fields.requirements.iter().map(field).collect();
    if !fields.is_empty() {
        path.push_str("&fieldSelector=");
        path.push_str(&escape(&fields.join(",")));
    }
}

fn selector_text(requirement: &evenkeel_api::Requirement) -> String {
    use evenkeel_api::Requirement;
    match requirement {
        Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
        Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
        Requirement::Exists(key) => key.clone(),
        Requirement::Absent(key) => format!("!{key}"),
    }
}

/// Percent-encodes everything but unreserved characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes every character");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_url_text() {
        let labels = evenkeel_api::LabelSelector::parse("app in (a,b),!old").unwrap();
        let query = ListQuery::all(evenkeel_api::GroupKind::new("", "Pod")).with_labels(labels);
        let mut path = String::from("/x?limit=1");
        push_selectors(&mut path, &query);
        assert_eq!(path, "/x?limit=1&labelSelector=app%20in%20%28a%2Cb%29%2C%21old");
    }
}
