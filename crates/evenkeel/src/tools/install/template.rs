//! The objects as a text with places to fill in: for `evenkeel install` with values, for the Helm
//! chart with expressions of its language.
//!
//! `{name}` stands for a text. Lines between `#if name` and `#end` are there under a condition.

/// The objects.
const TEMPLATE: &str = include_str!("objects.yaml");

/// What becomes of lines under a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// They are there.
    Always,
    /// They are not.
    Never,
    /// The chart decides, by this expression.
    If(String),
}

impl From<bool> for When {
    fn from(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }
}

/// What stands in the places of the template.
pub(super) struct Filling {
    /// By name. What is put in is not looked at again.
    pub(super) texts: Vec<(&'static str, String)>,
    /// By name; lines under an unknown condition are left out.
    pub(super) conditions: Vec<(&'static str, When)>,
}

impl Filling {
    /// The template with these values.
    pub(super) fn manifest(&self) -> String {
        let mut text = String::new();
        let mut open: Vec<When> = Vec::new();
        for line in TEMPLATE.lines() {
            let words = line.trim_start();
            if let Some(name) = words.strip_prefix("#if ") {
                let when = self.condition(name);
                if let When::If(expression) = &when {
                    text.extend(["{{- if ", expression, " }}\n"]);
                }
                open.push(when);
            } else if words == "#end" {
                if let Some(When::If(_)) = open.pop() {
                    text.push_str("{{- end }}\n");
                }
            } else if !open.contains(&When::Never) {
                self.line(line, &mut text);
            }
        }
        text
    }

    fn condition(&self, name: &str) -> When {
        let mut all = self.conditions.iter();
        all.find(|(known, _)| *known == name).map_or(When::Never, |(_, when)| when.clone())
    }

    fn line(&self, mut rest: &str, text: &mut String) {
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let place = self.texts.iter().find_map(|(name, value)| {
                let rest = after.strip_prefix(name)?.strip_prefix('}')?;
                Some((value, rest))
            });
            if let Some((value, after)) = place {
                text.push_str(value);
                rest = after;
            } else {
                text.push('{');
                rest = after;
            }
        }
        text.push_str(rest);
        text.push('\n');
    }
}
