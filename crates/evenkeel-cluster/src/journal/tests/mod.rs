//! What is promised of a journal, with one in memory and with redb on a disk that fails.
#![expect(clippy::unwrap_in_result, reason = "a setup that fails is a test that fails")]

mod crash;
mod damage;
mod disk;
mod promise;

use std::sync::{Arc, Mutex};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::{FixedClock, Rng};
use evenkeel_control::{BoxFuture, DeleteOptions, Patch, StoreError, Write as _, WriteOptions};
use serde_json::{Value, json};

use super::{Batch, Flusher, Journal, JournalError, Kept};
use crate::ApiServer;

/// A journal that outlives its server, and fails when told to.
#[derive(Clone, Default)]
pub(super) struct Paper(Arc<Mutex<Sheet>>);

#[derive(Default)]
struct Sheet {
    kept: Kept,
    is_full: bool,
}

impl Paper {
    fn fill(&self, is_full: bool) {
        self.0.lock().unwrap().is_full = is_full;
    }
}

impl Journal for Paper {
    fn read(&mut self) -> Result<Kept, JournalError> {
        Ok(self.0.lock().unwrap().kept.clone())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), JournalError> {
        let mut sheet = self.0.lock().unwrap();
        if sheet.is_full {
            let (place, problem) = ("/data/state".to_owned(), "no space left".to_owned());
            return Err(JournalError::Full { place, problem });
        }
        let kept = &mut sheet.kept;
        for change in &batch.changes {
            kept.objects.retain(|obj| *obj.key() != change.key);
            kept.objects.extend(change.after.clone());
        }
        (kept.revision, kept.counters) = (batch.revision, batch.counters);
        Ok(())
    }
}

fn open(journal: impl Journal) -> Result<(Arc<ApiServer>, Flusher), JournalError> {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    ApiServer::open(Arc::new(FixedClock(now)), Rng::new(7), journal)
}

type Answer = BoxFuture<'static, Result<(), StoreError>>;

fn create(server: &Arc<ApiServer>, body: Value) -> Answer {
    let (server, obj) = (server.clone(), Obj::from_json(body).unwrap());
    Box::pin(async move { server.create(&obj, &WriteOptions::default()).await.map(drop) })
}

fn merge(server: &Arc<ApiServer>, key: &Key, patch: Value) -> Answer {
    let (server, key) = (server.clone(), key.clone());
    Box::pin(async move {
        server.patch(&key, &Patch::Merge(patch), &WriteOptions::default()).await.map(drop)
    })
}

fn delete(server: &Arc<ApiServer>, key: &Key) -> Answer {
    let (server, key) = (server.clone(), key.clone());
    Box::pin(async move { server.delete(&key, &DeleteOptions::default()).await })
}

fn key(kind: &str, name: &str) -> Key {
    Key::new(GroupKind::new("", kind), "default", name)
}

fn config(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}})
}
