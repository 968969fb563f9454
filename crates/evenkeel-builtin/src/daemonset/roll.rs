//! How pods of an old template are replaced. **Source**: `rollingUpdate` in `update.go`.

use evenkeel_api::{Rounding, scaled_int_or_percent};
use k8s_openapi::{api::apps::v1::DaemonSetSpec, apimachinery::pkg::util::intstr::IntOrString};

use super::{Draft, is_available, pair::Pair};
use crate::seen::Seen;

/// How many nodes may be without a pod, and how many may have two.
#[derive(Debug, Clone, Copy)]
struct Limits {
    unavailable: i64,
    surge: i64,
}

fn amounts(spec: &DaemonSetSpec) -> Option<[Option<&IntOrString>; 2]> {
    let strategy = spec.update_strategy.as_ref()?;
    let rolling = strategy.rolling_update.as_ref()?;
    let is_rolling = strategy.type_.as_deref() == Some("RollingUpdate");
    is_rolling.then_some([rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref()])
}

/// Whether a node may have two pods for a while. **Source**: `AllowsSurge`.
pub(crate) fn surges(spec: &DaemonSetSpec) -> bool {
    let surge = amounts(spec).and_then(|[_, surge]| surge);
    surge.and_then(|surge| scaled_int_or_percent(surge, 100, Rounding::Up)).unwrap_or_default() > 0
}

impl<'a> Draft<'a> {
    fn limits(&self, desired: i64) -> Option<Limits> {
        let total = i32::try_from(desired).unwrap_or(i32::MAX);
        let [unavailable, surge] = amounts(self.spec)?.map(|amount| {
            let scaled =
                amount.and_then(|amount| scaled_int_or_percent(amount, total, Rounding::Up));
            i64::from(scaled.unwrap_or_default())
        });
        let is_stuck = desired > 0 && unavailable == 0 && surge == 0;
        Some(Limits { unavailable: if is_stuck { 1 } else { unavailable }, surge })
    }

    /// Nodes in order of name, those without a pod included that should have one.
    fn nodes_and_pods(&self) -> Vec<(String, Option<Pair<'a>>)> {
        let mut all = self.by_node.clone();
        for node in self.view.nodes.iter().filter(|node| self.fit(node).runs) {
            all.entry(node.name().to_owned()).or_default();
        }
        all.into_iter().map(|(node, here)| (node, self.pair(&here))).collect()
    }

    pub(crate) fn roll(&mut self) {
        let runs = self.view.nodes.iter().filter(|node| self.fit(node).runs);
        let desired = i64::try_from(runs.count()).unwrap_or(i64::MAX);
        let Some(limits) = self.limits(desired) else { return };
        let nodes = self.nodes_and_pods();
        if limits.surge == 0 {
            self.replace(&nodes, limits);
        } else {
            self.surge(&nodes, limits, desired);
        }
    }

    /// Deletes old pods: all that are of no use anyway, and as many others as may be missing.
    fn replace(&mut self, nodes: &[(String, Option<Pair<'a>>)], limits: Limits) {
        let mut missing = 0;
        let (mut useless, mut candidates) = (Vec::new(), Vec::new());
        for (_, pair) in nodes {
            match pair {
                Some(Pair { new: Some(new), old: None }) => {
                    missing += i64::from(!is_available(self, new));
                }
                Some(Pair { new: None, old: Some(old) }) => {
                    if !is_available(self, old) {
                        useless.push(old.name().to_owned());
                        missing += 1;
                    } else if missing < limits.unavailable {
                        candidates.push(old.name().to_owned());
                    }
                }
                _ => missing += 1,
            }
        }
        let more = usize::try_from(limits.unavailable - missing).unwrap_or_default();
        self.doomed.extend(useless);
        self.doomed.extend(candidates.into_iter().take(more));
    }

    /// Makes new pods beside old ones, and deletes the old ones when the new ones are available.
    fn surge(&mut self, nodes: &[(String, Option<Pair<'a>>)], limits: Limits, desired: i64) {
        let (mut surging, mut available) = (0, 0);
        let (mut allowed, mut candidates, mut misplaced) = (Vec::new(), Vec::new(), Vec::new());
        for (name, pair) in nodes {
            let Some(pair) = pair else {
                surging += 1;
                continue;
            };
            let counted = pair.old.or(pair.new);
            available += i64::from(counted.is_some_and(|pod| is_available(self, pod)));
            let Some(old) = pair.old else { continue };
            let old_name = old.name().to_owned();
            let runs = self.is_wanted_on(name);
            match pair.new {
                Some(new) if is_available(self, new) => {
                    self.doomed.insert(old_name);
                }
                Some(_) => surging += 1,
                None if !is_available(self, old) => {
                    if runs {
                        allowed.push(name.clone());
                    } else {
                        self.doomed.insert(old_name);
                    }
                }
                None if !runs => misplaced.push(old_name),
                None if surging < limits.surge => candidates.push(name.clone()),
                None => {}
            }
        }
        let spare = usize::try_from(available - desired).unwrap_or_default();
        self.doomed.extend(misplaced.into_iter().take(spare));
        let more = usize::try_from(limits.surge - surging).unwrap_or_default();
        self.wanting.extend(allowed);
        self.wanting.extend(candidates.into_iter().take(more));
    }

    fn is_wanted_on(&self, name: &str) -> bool {
        let node = self.view.nodes.iter().find(|node: &&Seen<_>| node.name() == name);
        node.is_some_and(|node| self.fit(node).runs)
    }
}
