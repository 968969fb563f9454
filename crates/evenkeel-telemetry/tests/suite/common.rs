//! What several tests need: time of tokio's kind, a store with only a watch, small targets.

use std::{sync::Arc, time::Duration};

use evenkeel_api::{Key, Obj};
use evenkeel_base::Clock;
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Read, StoreError, Subresource, Timer,
    Watch, WatchEvent, Write, WriteOptions,
};
use futures::{StreamExt as _, channel::mpsc};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// tokio's time, paused or not, counted from a fixed date.
#[derive(Clone, Copy)]
pub(crate) struct TokioTime(tokio::time::Instant);

impl TokioTime {
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

/// The date at which tests start.
pub(crate) const EPOCH_S: i64 = 1_700_000_000;

impl Clock for TokioTime {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.0.elapsed()).unwrap();
        Timestamp::from_second(EPOCH_S).unwrap().checked_add(passed).unwrap()
    }
}

impl Timer for TokioTime {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

/// A store whose watch sends what the test puts in.
pub(crate) struct PodStore(std::sync::Mutex<Option<mpsc::UnboundedReceiver<WatchEvent>>>);

pub(crate) fn pod_store() -> (mpsc::UnboundedSender<WatchEvent>, Arc<PodStore>) {
    let (sender, receiver) = mpsc::unbounded();
    (sender, Arc::new(PodStore(std::sync::Mutex::new(Some(receiver)))))
}

fn not_here<T>() -> BoxFuture<'static, Result<T, StoreError>> {
    Box::pin(async { Err(StoreError::NotFound { object: "everything".to_owned() }) })
}

impl Read for PodStore {
    fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        not_here()
    }
    fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        not_here()
    }
    fn watch(&self, _: ListQuery) -> Watch {
        self.0.lock().unwrap().take().unwrap().map(Ok).boxed()
    }
}

impl Write for PodStore {
    fn create<'a>(
        &'a self,
        _: &'a Obj,
        _: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        not_here()
    }
    fn patch<'a>(
        &'a self,
        _: &'a Key,
        _: &'a Patch,
        _: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        not_here()
    }
    fn delete<'a>(
        &'a self,
        _: &'a Key,
        _: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        not_here()
    }
    fn post<'a>(
        &'a self,
        _: &'a Key,
        _: Subresource,
        _: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        not_here()
    }
}

/// A running pod of the app `api` that asks to be scraped.
pub(crate) fn pod(name: &str, ip: &str, port: u16) -> Arc<Obj> {
    let body = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "api"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": port.to_string()}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "podIP": ip}});
    Arc::new(Obj::from_json(body).unwrap())
}
