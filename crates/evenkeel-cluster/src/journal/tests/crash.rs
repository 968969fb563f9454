//! Whatever is written, wherever the power fails: what was acknowledged is there again, and nothing
//! is that somebody could have known not to be.

use std::collections::BTreeMap;

use evenkeel_base::Rng;
use evenkeel_control::{ListQuery, Read as _};
use futures::{FutureExt as _, executor::block_on};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof,
    proptest,
};

use super::{disk::Disk, *};

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Set(usize, u8),
    Delete(usize),
    /// The journal is written.
    Flush,
    /// It is written while the disk fails for some operations, after some that are good.
    Fail {
        good: u64,
        bad: u64,
    },
    /// The power fails while it is written, or before.
    Crash {
        good: u64,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..4_usize;
    prop_oneof![
        4 => name.clone().prop_map(Step::Create),
        4 => (name.clone(), 0..5_u8).prop_map(|(name, value)| Step::Set(name, value)),
        2 => name.prop_map(Step::Delete),
        3 => Just(Step::Flush),
        1 => (0..12_u64, 1..20_u64).prop_map(|(good, bad)| Step::Fail { good, bad }),
        1 => (0..16_u64, any::<u64>()).prop_map(|(good, seed)| Step::Crash { good, seed }),
    ]
}

/// Name to uid, revision and content.
type Objects = BTreeMap<String, String>;

fn shown(server: &ApiServer) -> Objects {
    let all = block_on(server.list(&ListQuery::all(GroupKind::new("", "ConfigMap")))).unwrap();
    all.items.iter().map(|obj| (obj.name().to_owned(), obj.json().to_string())).collect()
}

/// What would be seen if everything were safe.
fn latest(server: &ApiServer) -> Objects {
    let kind = GroupKind::new("", "ConfigMap");
    server.shared.with(|state| {
        let all = state.objects(&kind, None);
        all.map(|obj| (obj.name().to_owned(), obj.json().to_string())).collect()
    })
}

struct World {
    disk: Disk,
    server: Arc<ApiServer>,
    flusher: Flusher,
    waiting: Vec<Answer>,
    /// What a failed write may have left on the disk all the same: it is taken back by the next one,
    /// unless a crash comes first.
    doubtful: Vec<Objects>,
}

impl World {
    fn start(disk: &Disk) -> Self {
        let (server, flusher) = open(disk.journal().unwrap()).unwrap();
        Self { disk: disk.clone(), server, flusher, waiting: Vec::new(), doubtful: Vec::new() }
    }

    fn ask(&mut self, mut answer: Answer) {
        if answer.as_mut().now_or_never().is_none() {
            self.waiting.push(answer);
        }
    }

    /// Every writer has an answer: that it is refused only when the journal has failed.
    fn answered(&mut self, written: bool) -> Result<(), TestCaseError> {
        for answer in self.waiting.drain(..) {
            let answer = answer.now_or_never();
            prop_assert!(answer.is_some(), "a writer still waits");
            let undone = matches!(answer, Some(Err(StoreError::Busy { .. })));
            prop_assert_eq!(undone, !written);
        }
        Ok(())
    }

    fn perform(mut self, step: &Step) -> Result<Self, TestCaseError> {
        let name = |n: &usize| format!("c{n}");
        let server = self.server.clone();
        match step {
            Step::Create(n) => self.ask(create(&server, config(&name(n)))),
            Step::Set(n, value) => {
                let patch = json!({"data": {"v": value.to_string()}});
                self.ask(merge(&server, &key("ConfigMap", &name(n)), patch));
            }
            Step::Delete(n) => self.ask(delete(&server, &key("ConfigMap", &name(n)))),
            Step::Flush => {
                let wanted = latest(&server);
                self.flusher.flush().unwrap();
                self.answered(true)?;
                self.doubtful.clear();
                prop_assert_eq!(shown(&server), wanted);
            }
            Step::Fail { good, bad } => {
                let (before, wanted) = (shown(&server), latest(&server));
                self.disk.fail(*good, Some(*bad));
                let written = self.flusher.flush().is_ok();
                self.disk.mend();
                self.answered(written)?;
                if written {
                    self.doubtful.clear();
                } else {
                    self.doubtful.push(wanted.clone());
                }
                prop_assert_eq!(shown(&server), if written { wanted } else { before });
            }
            Step::Crash { good, seed } => {
                let (before, wanted) = (shown(&server), latest(&server));
                self.disk.fail(*good, None);
                let written = self.flusher.flush().is_ok();
                // Nothing of the old process writes any more.
                self.disk.fail(0, None);
                let Self { disk, server: old, flusher, waiting, doubtful } = self;
                drop((old, server, flusher, waiting));
                disk.crash(&mut Rng::new(*seed));
                let again = Self::start(&disk);
                let found = shown(&again.server);
                // Written, but not known to be: nobody had been told.
                let is_possible =
                    found == wanted || (!written && (found == before || doubtful.contains(&found)));
                prop_assert!(is_possible, "{found:?}\nnot {before:?}\nnor {wanted:?}");
                return Ok(again);
            }
        }
        Ok(self)
    }
}

#[test]
fn a_change_that_was_refused_may_be_there_after_a_crash() -> Result<(), TestCaseError> {
    let steps = [Step::Create(0), Step::Fail { good: 7, bad: 1 }, Step::Crash { good: 2, seed: 0 }];
    let mut world = World::start(&Disk::formatted());
    for step in &steps {
        world = world.perform(step)?;
    }
    prop_assert_eq!(shown(&world.server).len(), 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_there_after_any_crash(
        steps in proptest::collection::vec(step(), 0..40), seed in any::<u64>(),
    ) {
        let disk = Disk::formatted();
        let mut world = World::start(&disk);
        for step in &steps {
            world = world.perform(step)?;
        }
        world = world.perform(&Step::Flush)?;
        world.perform(&Step::Crash { good: 0, seed })?;
    }
}
