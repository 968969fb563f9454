//! How long a failed pod stays before it is replaced. **Source**: `failedPodsBackoff`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{pods, seen::Seen};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(15);

/// When pods of each node failed last, and how long the pause is since.
#[derive(Debug, Default)]
pub(crate) struct Failures(BTreeMap<String, (Timestamp, Duration)>);

impl Failures {
    /// Takes note of failed pods; the nodes whose pod has to stay for now, and for how long.
    pub(crate) fn look(
        &mut self,
        all: &[Seen<Pod>],
        owner: &str,
        now: Timestamp,
    ) -> BTreeMap<String, Duration> {
        let failed = all.iter().filter(|pod| {
            pods::is_controlled_by(&pod.obj, owner)
                && pods::phase(pod) == "Failed"
                && !pod.obj.is_deleting()
        });
        // A node may have several failed pods, which go together: they are one failure.
        let nodes: BTreeSet<&str> = failed.filter_map(|pod| pods::node(pod)).collect();
        let mut paused = BTreeMap::new();
        for node in nodes {
            let passed = |since: Timestamp| {
                Duration::try_from(now.duration_since(since)).unwrap_or_default()
            };
            match self.0.get_mut(node) {
                Some((since, pause)) if passed(*since) < *pause => {
                    paused.insert(node.to_owned(), pause.saturating_sub(passed(*since)));
                }
                Some((since, pause)) => {
                    let is_over = passed(*since) > LONGEST * 2;
                    let next = if is_over { FIRST } else { (*pause * 2).min(LONGEST) };
                    (*since, *pause) = (now, next);
                }
                None => {
                    self.0.insert(node.to_owned(), (now, FIRST));
                }
            }
        }
        paused
    }
}
