//! Where an installation is, and what its objects are called.
//!
//! | flags | objects | cluster-wide roles |
//! |---|---|---|
//! | none | `evenkeel` | `evenkeel-NAMESPACE` |
//! | `--only slo` | `evenkeel-slo` | `evenkeel-NAMESPACE:slo` |
//! | `--only slo,delivery` | `evenkeel-delivery-slo` | `evenkeel-NAMESPACE:delivery-slo` |
//! | `--watch-namespace N` | `evenkeel`, in N | none |
//! | `--watch-namespace N --namespace M` | `evenkeel-ns-N`, in M, its role in N | none |
//!
//! So no two of them that differ in these flags replace each other's objects. A colon is in no
//! name of a namespace or group.

use anyhow::ensure;
use evenkeel_assembly::domains;

use crate::install_flags::{self, PlaceArgs};

/// On every object of an installation, beside its name.
pub(super) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "evenkeel");
/// The name of every object of an installation, or its first part.
const NAME: &str = "evenkeel";
/// Longest name of a `StatefulSet` whose pods can be labelled with its revision: 63 without a hash.
pub(super) const NAME_MAX: usize = 52;

/// An installation of the controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the controllers are.
    pub(crate) namespace: String,
    /// The groups that run, in a fixed order; none named means all.
    pub(crate) only: Vec<&'static str>,
    /// The one namespace that they look after; without, all of them.
    pub(crate) watched: Option<String>,
}

impl Place {
    /// **Errors**: the objects would have a name that is too long.
    pub(crate) fn of(args: &PlaceArgs) -> anyhow::Result<Self> {
        let watched = args.watch_namespace.clone();
        let namespace = args.namespace.clone().or_else(|| watched.clone());
        let namespace = namespace.unwrap_or_else(|| install_flags::NAMESPACE.to_owned());
        let all = domains().into_iter().map(|domain| domain.name);
        let only = all.filter(|name| args.only.iter().any(|named| named == name)).collect();
        let place = Self { namespace, only, watched };
        let name = place.name();
        ensure!(
            name.len() <= NAME_MAX,
            "its objects would be called {name}, and a StatefulSet's name may have {NAME_MAX} \
             letters: leave out --namespace, then they are in the namespace that is watched"
        );
        Ok(place)
    }

    /// The name of its objects.
    pub(crate) fn name(&self) -> String {
        let mut name = NAME.to_owned();
        if !self.only.is_empty() {
            name.push('-');
            name.push_str(&self.only.join("-"));
        }
        if let Some(watched) = self.watched.as_ref().filter(|watched| **watched != self.namespace) {
            name.push_str("-ns-");
            name.push_str(watched);
        }
        name
    }

    /// The name of its `ClusterRole`, where it has one.
    pub(crate) fn cluster_role(&self) -> String {
        let mut name = format!("{NAME}-{}", self.namespace);
        if !self.only.is_empty() {
            name.push(':');
            name.push_str(&self.only.join("-"));
        }
        name
    }

    /// Whether it runs a group.
    pub(crate) fn runs(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    /// Where its Leases are.
    pub(crate) fn leases(&self) -> &str {
        self.watched.as_ref().unwrap_or(&self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(only: &[&str], watched: Option<&str>, namespace: Option<&str>) -> Place {
        let only = only.iter().map(|&name| name.to_owned()).collect();
        let (watch_namespace, namespace) =
            (watched.map(str::to_owned), namespace.map(str::to_owned));
        Place::of(&PlaceArgs { namespace, only, watch_namespace }).unwrap()
    }

    #[test]
    fn the_names_say_which_groups_and_which_namespace() {
        let names = |place: Place| format!("{} {}", place.name(), place.cluster_role());
        assert_eq!(names(place(&[], None, None)), "evenkeel evenkeel-evenkeel");
        let ops = Some("ops");
        assert_eq!(names(place(&["slo"], None, ops)), "evenkeel-slo evenkeel-ops:slo");
        let both = names(place(&["slo", "delivery"], None, ops));
        assert_eq!(both, "evenkeel-delivery-slo evenkeel-ops:delivery-slo");
        assert_eq!(place(&[], Some("team"), None).name(), "evenkeel");
        assert_eq!(place(&[], Some("team"), None).namespace, "team");
        assert_eq!(place(&["slo"], Some("team"), ops).name(), "evenkeel-slo-ns-team");
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_with_the_way_out() {
        let args = |namespace: Option<&str>| PlaceArgs {
            namespace: namespace.map(str::to_owned),
            only: vec!["delivery".to_owned()],
            watch_namespace: Some("a".repeat(40)),
        };
        let refused = Place::of(&args(Some("ops"))).unwrap_err().to_string();
        assert!(refused.contains("leave out --namespace"), "{refused}");
        assert!(Place::of(&args(None)).is_ok());
    }
}
