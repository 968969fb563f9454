//! Objects as people name them.

use anyhow::bail;
use evenkeel_assembly::COMMON;

/// What kubectl and people call some kinds.
const SHORT: [(&str, &str); 11] = [
    ("slo", "prometheusservicelevel"),
    ("policy", "errorbudgetpolicy"),
    ("deploy", "deployment"),
    ("rs", "replicaset"),
    ("svc", "service"),
    ("po", "pod"),
    ("no", "node"),
    ("ns", "namespace"),
    ("cm", "configmap"),
    ("hpa", "horizontalpodautoscaler"),
    ("ep", "endpoints"),
];

/// An object as a person names it.
///
/// **Text**: KIND/NAME or KIND/NAMESPACE/NAME. The kind is in the singular or the plural, with or
/// without its group, in whatever case: `canary/api`, `Canary/shop/api`, `canaries.flagger.app/api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName {
    /// As it was given.
    given: String,
    /// In lower case, without its group, short names written out.
    kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl ObjectName {
    /// **Errors**: the text names no object.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [kind, name] => (kind, None, name),
            [kind, namespace, name] => (kind, Some(namespace), name),
            _ => ("", None, ""),
        };
        if kind.is_empty() || name.is_empty() || namespace == Some("") {
            bail!(
                "{text:?} names no object: write KIND/NAME or KIND/NAMESPACE/NAME, for example \
                 canary/api"
            );
        }
        let given = kind.to_owned();
        let kind = kind.to_ascii_lowercase();
        let kind = kind.split_once('.').map_or(&*kind, |(kind, _)| kind);
        let long = SHORT.iter().find(|(short, _)| *short == kind || plural(short) == kind);
        let kind = long.map_or(kind, |(_, long)| long).to_owned();
        Ok(Self { given, kind, namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }

    /// Whether it is of this kind, such as `Canary`.
    pub(crate) fn is_kind(&self, kind: &str) -> bool {
        let kind = kind.to_ascii_lowercase();
        self.kind == kind || self.kind == plural(&kind)
    }

    /// **Errors**: no controller looks after objects of this kind or acts on them, so no record
    /// names one.
    pub(crate) fn is_acted_on(&self) -> anyhow::Result<()> {
        let domains = evenkeel_assembly::domains();
        let rights = domains.iter().flat_map(|domain| domain.rights);
        let mut resources = rights.chain(COMMON).flat_map(|right| right.resources);
        let many = plural(&self.kind);
        if resources.any(|resource| *resource == self.kind || *resource == many) {
            return Ok(());
        }
        bail!(
            "evenkeel does nothing to objects of kind {:?}: use canary, slo, deployment, service, \
             httproute, or another kind that `audit list` shows",
            self.given
        )
    }

    /// The kind as it was given.
    pub(crate) fn given_kind(&self) -> &str {
        &self.given
    }

    /// Whether it names the object that is written like this in the record: `Kind/namespace/name`,
    /// or `Kind/name` outside of namespaces. Without a namespace it names those of all.
    pub(crate) fn names(&self, object: &str) -> bool {
        let (kind, namespace, name) = match object.split('/').collect::<Vec<_>>()[..] {
            [kind, namespace, name] => (kind, Some(namespace), name),
            [kind, name] => (kind, None, name),
            _ => return false,
        };
        let here = self.namespace.as_deref().is_none_or(|own| namespace == Some(own));
        here && name == self.name && self.is_kind(kind)
    }
}

/// As Kubernetes forms plurals of kinds.
fn plural(kind: &str) -> String {
    let consonant = |text: &str| !text.ends_with(['a', 'e', 'i', 'o', 'u']);
    if let Some(stem) = kind.strip_suffix('y').filter(|stem| consonant(stem)) {
        return format!("{stem}ies");
    }
    let ending = if kind.ends_with(['s', 'x']) || kind.ends_with("ch") { "es" } else { "s" };
    format!("{kind}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_in_any_case_singular_or_plural_with_or_without_its_group() {
        let canary = "Canary/shop/api";
        for text in [
            "canary/api",
            "Canary/api",
            "CANARIES/api",
            "canaries/shop/api",
            "canaries.flagger.app/api",
            canary,
        ] {
            assert!(ObjectName::parse(text).unwrap().names(canary), "{text}");
        }
        for text in ["canary/ap", "canary/other/api", "deployment/api", "canar/api"] {
            assert!(!ObjectName::parse(text).unwrap().names(canary), "{text}");
        }
        let names = |text: &str, object: &str| ObjectName::parse(text).unwrap().names(object);
        assert!(names("slo/api", "PrometheusServiceLevel/shop/api"));
        assert!(names("policies/api", "ErrorBudgetPolicy/shop/api"));
        assert!(names("breakglasses/api", "BreakGlass/shop/api"));
        assert!(names("ns/shop", "Namespace/shop"));
        assert!(!names("namespace/default/shop", "Namespace/shop"));
        assert!(!names("canary/api", "set-weights"));
    }

    #[test]
    fn a_kind_that_nothing_is_done_to_is_refused() {
        let refused = |text: &str| ObjectName::parse(text).unwrap().is_acted_on().is_err();
        for text in ["canary/api", "slo/api", "deploy/api", "httproutes/api", "Secret/shop/a"] {
            assert!(!refused(text), "{text}");
        }
        for text in ["foo/api", "canar/api", "node/a"] {
            assert!(refused(text), "{text}");
        }
    }

    #[test]
    fn what_names_no_object_says_what_to_write() {
        for text in ["", "api", "/api", "canary/", "canary//api", "a/b/c/d"] {
            let error = ObjectName::parse(text).unwrap_err().to_string();
            assert!(error.contains("write KIND/NAME"), "{text}: {error}");
        }
    }
}
