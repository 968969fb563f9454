use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, Once, OnceLock, PoisonError},
    time::Duration,
};

use evenkeel_api::{ApiObject, GroupKind, Key, Obj, canary::Canary, slo::PrometheusServiceLevel};
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Read as _, StoreError, Write as _, WriteOptions,
};
use evenkeel_live::{KubeStore, connect};
use k8s_openapi::api::coordination::v1::Lease;
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{rights, skip, until};

/// Clusters that no test uses now; `None` before the first look.
static FREE: Mutex<Option<Vec<String>>> = Mutex::new(None);
static FREED: Condvar = Condvar::new();
static SKIPPED: Once = Once::new();

/// Longest wait for other tests.
const QUEUE_MAX: Duration = Duration::from_mins(20);

/// By how much the long tests are ahead of the short ones.
const HEAD_START: Duration = Duration::from_secs(1);

/// A control plane that this test has for itself.
pub(crate) struct Bed {
    pub(crate) name: String,
    pub(crate) store: KubeStore,
    pub(crate) runtime: Runtime,
}

/// The folder that `tests/realk8s/up` was given.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let named = std::env::var_os("EVENKEEL_REALK8S").map(PathBuf::from);
        named.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("realk8s"))
    })
}

/// Names of the clusters that run.
fn running() -> Vec<String> {
    let names = std::fs::read_to_string(folder().join("clusters")).unwrap_or_default();
    let alive = |name: &&str| pid(&format!("{name}-apiserver")).is_some_and(is_alive);
    names.lines().filter(alive).map(str::to_owned).collect()
}

/// The process id of a program of any of them.
pub(crate) fn pid(program: &str) -> Option<Pid> {
    let text = std::fs::read_to_string(folder().join("run").join(format!("{program}.pid"))).ok()?;
    Some(Pid::from_raw(text.trim().parse().ok()?))
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

impl Bed {
    /// As [`Self::take`], for a test that is short: the long ones go first, so that all end sooner.
    pub(crate) fn take_later() -> Option<Self> {
        // Nothing depends on it but how long all tests together take.
        std::thread::sleep(HEAD_START);
        Self::take()
    }

    /// A free control plane; waits for one. `None` when there is none at all.
    pub(crate) fn take() -> Option<Self> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let all = free.get_or_insert_with(running);
        if all.is_empty() && running().is_empty() {
            SKIPPED.call_once(|| skip(&format!("no Kubernetes in {}", folder().display())));
            return None;
        }
        let name = loop {
            if let Some(name) = free.as_mut().and_then(Vec::pop) {
                break name;
            }
            let waited = FREED.wait_timeout(free, QUEUE_MAX);
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            free = after;
            assert!(!timeout.timed_out(), "no cluster has become free: a test before broke it");
        };
        drop(free);
        let mut bed = Self::open(&name);
        bed.install_crds();
        rights::grant(&bed);
        until("the users of evenkeel have their rights", || bed.lets_users_in());
        // Users have the same names in every run; the API server appends.
        std::fs::write(bed.file("audit.log"), "").unwrap();
        Some(bed)
    }

    /// Connects to a control plane.
    pub(crate) fn open(name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let file = folder().join(name).join("kubeconfig");
        let store = runtime.block_on(connect(Some(&file))).unwrap();
        Self { name: name.to_owned(), store, runtime }
    }

    /// Makes all definitions known.
    pub(crate) fn install_crds(&mut self) {
        for crd in evenkeel_api::crds() {
            self.apply_crd(&crd);
        }
        // What kinds there are is not asked for twice within ten seconds by one client.
        self.store = self.runtime.block_on(connect(Some(&self.file("kubeconfig")))).unwrap();
    }

    /// The process id of one of its programs.
    pub(crate) fn pid(&self, program: &str) -> Pid {
        pid(&format!("{}-{program}", self.name)).unwrap()
    }

    /// A file of the cluster.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        folder().join(&self.name).join(name)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Obj>> {
        self.runtime.block_on(self.store.get(key)).unwrap()
    }

    /// A field of an object, by JSON pointer; null when there is none.
    pub(crate) fn field(&self, key: &Key, pointer: &str) -> Value {
        let found = self.get(key);
        found.and_then(|obj| obj.json().pointer(pointer).cloned()).unwrap_or_default()
    }

    pub(crate) fn list<T: ApiObject>(&self, namespace: &str) -> Vec<Arc<Obj>> {
        let query = ListQuery::of::<T>();
        let query = if namespace.is_empty() { query } else { query.within(namespace) };
        self.runtime.block_on(self.store.list(&query)).unwrap().items
    }

    pub(crate) fn create(&self, body: Value) -> Key {
        let obj = Obj::from_json(body).unwrap();
        let made = self.runtime.block_on(self.store.create(&obj, &WriteOptions::default()));
        made.unwrap().key().clone()
    }

    /// Whether an object like this one may not be created; it is not there afterwards.
    pub(crate) fn refuses(&self, body: Value) -> bool {
        let obj = Obj::from_json(body).unwrap();
        match self.runtime.block_on(self.store.create(&obj, &WriteOptions::default())) {
            Ok(made) => {
                self.delete(made.key());
                false
            }
            Err(StoreError::Refused { .. }) => true,
            // Not gone yet.
            Err(StoreError::Exists { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn patch(&self, key: &Key, patch: Value) {
        self.try_patch(key, patch).unwrap();
    }

    pub(crate) fn try_patch(&self, key: &Key, patch: Value) -> Result<(), StoreError> {
        let patch = Patch::Merge(patch);
        let options = WriteOptions::default();
        let patching = self.store.patch(key, &patch, &options);
        self.runtime.block_on(patching).map(drop)
    }

    pub(crate) fn delete(&self, key: &Key) {
        self.try_delete(key).unwrap();
    }

    pub(crate) fn try_delete(&self, key: &Key) -> Result<(), StoreError> {
        self.runtime.block_on(self.store.delete(key, &DeleteOptions::default()))
    }

    /// A fresh namespace with a Gateway in it.
    pub(crate) fn namespace(&self, name: &str) {
        let key = Key::new(GroupKind::new("", "Namespace"), "", name);
        if self.get(&key).is_some() {
            // Of an earlier run of the tests.
            self.delete(&key);
            until("the namespace is gone", || self.get(&key).is_none());
        }
        self.create(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name}}));
        until("the namespace is ready", || self.field(&key, "/status/phase") == "Active");
        self.create(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "public", "namespace": name},
            "spec": {"gatewayClassName": "fake",
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}));
    }

    /// Whether a user of `evenkeel run` may read what each of them reads.
    fn lets_users_in(&self) -> bool {
        let file = self.file("user.kubeconfig");
        let kubeconfig = std::fs::read_to_string(self.file("kubeconfig")).unwrap();
        std::fs::write(&file, kubeconfig.replace("token-of-admin", "token-of-client-1")).unwrap();
        self.runtime.block_on(async {
            let store = connect(Some(&file)).await.unwrap();
            let lease = Key::of::<Lease>("default", "evenkeel-delivery");
            let canaries = ListQuery::of::<Canary>();
            store.list(&canaries).await.is_ok() && store.get(&lease).await.is_ok()
        })
    }

    /// Creates a definition, or replaces what is there, and waits until it is served.
    pub(crate) fn apply_crd(&self, crd: &Value) {
        let key = self.put(crd);
        until("the definition is established", || {
            let conditions = self.field(&key, "/status/conditions");
            conditions.as_array().into_iter().flatten().any(|condition| {
                condition["type"] == "Established" && condition["status"] == "True"
            })
        });
    }

    /// Creates an object, or replaces what is there.
    pub(crate) fn put(&self, body: &Value) -> Key {
        let obj = Obj::from_json(body.clone()).unwrap();
        let key = obj.key().clone();
        match self.runtime.block_on(self.store.create(&obj, &WriteOptions::default())) {
            Ok(_) => {}
            Err(StoreError::Exists { .. }) => {
                // A merge would keep fields that the new schema does not have.
                let have = self.get(&key).unwrap();
                let mut next = body.clone();
                next["metadata"]["resourceVersion"] = json!(&*have.revision().0);
                let (next, options) = (Patch::Replace(next), WriteOptions::default());
                let replacing = self.store.patch(&key, &next, &options);
                self.runtime.block_on(replacing).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        key
    }

    /// The condition of this type on an object; null when there is none.
    pub(crate) fn condition(&self, key: &Key, kind: &str) -> Value {
        let conditions = self.field(key, "/status/conditions");
        let mut of = conditions.as_array().into_iter().flatten();
        of.find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
    }

    /// Removes the objects that the next test's controllers would look after.
    fn tidy_up(&self) {
        self.forget::<Canary>();
        self.forget::<PrometheusServiceLevel>();
        self.forget::<Lease>();
    }

    fn forget<T: ApiObject>(&self) {
        let query = ListQuery::of::<T>();
        // A test may have failed before the kind was there.
        let Ok(found) = self.runtime.block_on(self.store.list(&query)) else { return };
        for obj in found.items {
            if &*obj.key().kind.kind == "Lease" && !obj.name().starts_with("evenkeel-") {
                continue;
            }
            let bare = json!({"metadata": {"finalizers": null}});
            match self.try_patch(obj.key(), bare) {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            match self.runtime.block_on(self.store.delete(obj.key(), &DeleteOptions::default())) {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A test that fails must not take the others along.
        let tidied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.tidy_up()));
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if tidied.is_ok() {
            free.get_or_insert_default().push(self.name.clone());
            FREED.notify_one();
        } else if !std::thread::panicking() {
            drop(free);
            panic!("cluster {} cannot be tidied up", self.name);
        }
    }
}
