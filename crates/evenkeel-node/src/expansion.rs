//! `$(NAME)` in the texts of a container.

use std::collections::BTreeMap;

/// Replaces `$(NAME)` where NAME is known; `$$` is a dollar sign.
///
/// **Source**: `third_party/forked/golang/expansion/expand.go`.
pub(crate) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    expand_with(text, |name| env.get(name).map(String::as_str))
}

/// The same, for text in which every name has to be known.
///
/// **Errors**: the first name that is not. **Source**: `ExpandContainerVolumeMounts`.
pub(crate) fn expand_known(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let unknown = std::cell::RefCell::new(None);
    let expanded = expand_with(text, |name| {
        let value = env.get(name).map(String::as_str);
        if value.is_none() {
            unknown.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        value
    });
    unknown.into_inner().map_or(Ok(expanded), Err)
}

fn expand_with<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        if let Some((value, after)) = named.and_then(|(name, after)| Some((value_of(name)?, after)))
        {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out + rest
}
