//! Sorted label sets: cheap to clone, ordered, hashable.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// The label that carries the metric name.
pub const METRIC_NAME: &str = "__name__";
/// The label that carries the upper bound of a classic histogram's bucket.
pub const BUCKET_LABEL: &str = "le";
/// The label that carries the type of a metric, where that is tracked.
pub const TYPE_LABEL: &str = "__type__";
/// The label that carries the unit of a metric, where that is tracked.
pub const UNIT_LABEL: &str = "__unit__";

/// Invalid bytes of `PromQL` string literals are carried as characters from here on (one per byte
/// value), because Rust text must be UTF-8. They sit at the end of the last private-use plane.
const RAW_BYTE_BASE: u32 = 0x0010_FE00;

/// One label: name and value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The name.
    pub name: Arc<str>,
    /// The value, never empty inside [`Labels`].
    pub value: Arc<str>,
}

/// A set of labels, sorted by name, without duplicates and without empty values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[Label]>);

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl Labels {
    /// The empty set.
    pub fn empty() -> Self {
        static EMPTY: LazyLock<Labels> = LazyLock::new(|| Labels(Arc::from([])));
        EMPTY.clone()
    }

    /// Sorts, drops empty values; of two labels with one name the later wins.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        pairs
            .into_iter()
            .map(|(name, value)| Label {
                name: Arc::from(name.as_ref()),
                value: Arc::from(value.as_ref()),
            })
            .collect()
    }

    /// A label set with only a metric name.
    pub fn named(name: &str) -> Self {
        Self::from_pairs([(METRIC_NAME, name)])
    }

    /// The value of a label, empty if absent.
    pub fn get(&self, name: &str) -> &str {
        self.find(name).map_or("", |label| &label.value)
    }

    /// The metric name, empty if there is none.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// Whether the label exists.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Label> {
        // Label sets are short: a scan beats a binary search.
        self.0.iter().find(|label| &*label.name == name)
    }

    /// Labels in the order of their names.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one label set (or removed, if the value is empty).
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        if self.get(name) == value {
            return self.clone();
        }
        let label = Label { name: Arc::from(name), value: Arc::from(value) };
        let kept = self.0.iter().filter(|label| &*label.name != name).cloned();
        kept.chain([label]).collect()
    }

    /// Without the metric name and the type and unit labels that belong to it.
    #[must_use]
    pub fn without_name(&self) -> Self {
        self.retain(|name| name != METRIC_NAME && name != TYPE_LABEL && name != UNIT_LABEL)
    }

    /// Only the named labels.
    #[must_use]
    pub fn keep<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.retain(|name| names.iter().any(|n| n.as_ref() == name))
    }

    /// Without the named labels.
    #[must_use]
    pub fn drop<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.retain(|name| !names.iter().any(|n| n.as_ref() == name))
    }

    /// Only the labels whose name passes.
    #[must_use]
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|label| keep(&label.name)).count();
        if kept == self.0.len() {
            return self.clone();
        }
        Self(self.0.iter().filter(|label| keep(&label.name)).cloned().collect())
    }

    /// These labels with `other` laid over them (later wins).
    #[must_use]
    pub fn merged(&self, other: &Labels) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.0.iter().chain(other.0.iter()).cloned().collect()
    }

    /// As a map, for JSON and templates.
    pub fn to_map(&self) -> std::collections::BTreeMap<String, String> {
        self.0.iter().map(|l| (l.name.to_string(), l.value.to_string())).collect()
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<T: IntoIterator<Item = Label>>(iter: T) -> Self {
        let mut all: Vec<Label> = iter.into_iter().collect();
        let sorted = all.windows(2).all(|pair| match pair {
            [a, b] => a.name < b.name,
            _ => true,
        });
        if !sorted {
            all.sort_by(|a, b| a.name.cmp(&b.name));
            // Later wins: stable sort keeps the order, so drop all but the last of each run.
            let mut merged: Vec<Label> = Vec::with_capacity(all.len());
            for label in all {
                match merged.last_mut() {
                    Some(last) if last.name == label.name => *last = label,
                    _ => merged.push(label),
                }
            }
            all = merged;
        }
        all.retain(|label| !label.value.is_empty());
        Self(Arc::from(all))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Labels {
    /// As upstream prints label sets in messages: `{__name__="x", a="b"}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, label) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if is_legacy_label_name(&label.name) {
                write!(f, "{comma}{}={}", label.name, quote(&label.value))?;
            } else {
                write!(f, "{comma}{}={}", quote(&label.name), quote(&label.value))?;
            }
        }
        f.write_str("}")
    }
}

impl serde::Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|label| (&*label.name, &*label.value)))
    }
}

impl<'de> serde::Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, String>::deserialize(deserializer)?;
        Ok(Self::from_pairs(map))
    }
}

/// Whether a name fits the old, ASCII-only rule for labels and can be written without quotes.
pub fn is_legacy_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric())
}

/// Whether a name fits the old, ASCII-only rule for metrics (labels plus colons).
pub fn is_legacy_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b == b'_' || b == b':' || b.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b == b':' || b.is_ascii_alphanumeric())
}

/// Whether a label name is valid at all (not empty, valid UTF-8).
pub fn is_valid_label_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| raw_byte(c).is_none())
}

/// The character that stands for an invalid byte of a string literal.
pub fn raw_byte_char(byte: u8) -> char {
    char::from_u32(RAW_BYTE_BASE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The invalid byte a character stands for, if it does.
fn raw_byte(c: char) -> Option<u8> {
    u32::from(c).checked_sub(RAW_BYTE_BASE).and_then(|b| u8::try_from(b).ok())
}

/// Quotes text as Go's `strconv.Quote` does.
pub fn quote(text: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if raw_byte(c).is_some() => {
                let byte = raw_byte(c).unwrap_or_default();
                write!(out, "\\x{byte:02x}").unwrap_or_default();
            }
            c if c.is_ascii_control() => {
                write!(out, "\\x{:02x}", u32::from(c)).unwrap_or_default();
            }
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_sorted_and_later_labels_win() {
        let labels = Labels::from_pairs([("b", "1"), ("a", "2"), ("b", "3"), ("c", "")]);
        assert_eq!(labels.to_string(), r#"{a="2", b="3"}"#);
        assert_eq!(labels.with("a", "").to_string(), r#"{b="3"}"#);
        assert_eq!(labels.with("d.e", "x\n").to_string(), r#"{a="2", b="3", "d.e"="x\n"}"#);
    }

    #[test]
    fn raw_bytes_are_quoted_as_go_does() {
        assert_eq!(quote(&format!("a{}z", raw_byte_char(0xc5))), r#""a\xc5z""#);
        assert!(!is_valid_label_name(&raw_byte_char(0xff).to_string()));
    }
}
