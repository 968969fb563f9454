//! A status that another project's definition has no place for.

use std::sync::{Arc, Mutex};

use evenkeel_api::{GroupKind, Key, Revision, beside::STATUS, json::merge};
use evenkeel_control::{
    Patch, Read as _, Steward, Stewards as _, StoreError, Subresource, Write as _, WriteOptions,
};
use evenkeel_live::{CachedStore, Manage, Neighbours};
use serde_json::{Value, json};

use crate::support::{End, Reply, Request, Server, list, quick, soon, status};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ONE: &str = "/apis/flagger.app/v1beta1/namespaces/x/canaries/a";

fn key() -> Key {
    Key::new(GroupKind::new("flagger.app", "Canary"), "x", "a")
}

/// An API server with one Canary, which keeps of a status what a schema says.
struct Fake {
    canary: Value,
    /// Schema of the status; `None`: definitions may not be read.
    schema: Option<Value>,
    /// What is kept of a status.
    keeps: Vec<&'static str>,
    /// Its schema is published to every user.
    published: bool,
    /// Published schemas cannot be had for the moment.
    broken: bool,
    /// The next write meets a newer object.
    conflict: bool,
}

type Shared = Arc<Mutex<Fake>>;

fn flaggers() -> Value {
    json!({"type": "object", "properties": {"phase": {"type": "string"}}})
}

fn free() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

impl Fake {
    fn definition(&self) -> Option<Value> {
        let status = self.schema.clone()?;
        Some(json!({"metadata": {"name": "canaries.flagger.app", "resourceVersion": "3"},
            "spec": {"versions": [{"name": "v1beta1", "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"status": status}}}}]}}))
    }

    fn revision(&self) -> u64 {
        self.canary["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    fn patch(&mut self, request: &Request) -> Reply {
        let mut body: Value = serde_json::from_slice(&request.body).unwrap();
        if self.conflict {
            self.conflict = false;
            self.canary["metadata"]["resourceVersion"] = json!((self.revision() + 1).to_string());
        }
        let expect = body.pointer("/metadata/resourceVersion").cloned();
        if expect.is_some_and(|expect| expect != self.canary["metadata"]["resourceVersion"]) {
            return status(409, "Conflict", "a");
        }
        if request.path().ends_with("/status") {
            let fields = body["status"].as_object_mut().unwrap();
            fields.retain(|name, _| self.keeps.contains(&name.as_str()));
            body = json!({"status": fields});
        }
        merge(&mut self.canary, &body);
        self.canary["metadata"]["resourceVersion"] = json!((self.revision() + 1).to_string());
        Reply::Json(200, self.canary.clone())
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let resource = |group: &str, plural: &str, kind: &str, version: &str, scope: &str| {
            json!({"metadata": {"name": group}, "versions": [{"version": version, "resources": [
                {"resource": plural, "scope": scope, "responseKind": {"kind": kind}}]}]})
        };
        match (&*request.method, request.path()) {
            (_, "/apis") => Reply::Json(
                200,
                json!({"kind": "APIGroupDiscoveryList", "items": [
                    resource("flagger.app", "canaries", "Canary", "v1beta1", "Namespaced"),
                    resource("apps", "deployments", "Deployment", "v1", "Namespaced"),
                    resource("apiextensions.k8s.io", "customresourcedefinitions",
                        "CustomResourceDefinition", "v1", "Cluster")]}),
            ),
            ("GET", "/apis/apps/v1/deployments") if request.is_watch() => {
                Reply::Watch(Vec::new(), End::Silent)
            }
            ("GET", "/apis/apps/v1/deployments") => Reply::Json(200, list(3, &[])),
            (_, path) if path.starts_with("/openapi/") && self.broken => {
                status(500, "InternalError", "openapi")
            }
            ("GET", CRDS) if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
            ("GET", CRDS) => match self.definition() {
                Some(crd) => Reply::Json(200, list(3, &[crd])),
                None => status(403, "Forbidden", "customresourcedefinitions"),
            },
            ("GET", "/openapi/v3/apis/flagger.app/v1beta1") if self.published => Reply::Json(
                200,
                json!({"components": {"schemas": {"app.flagger.v1beta1.Canary": {
                    "x-kubernetes-group-version-kind": [{"group": "flagger.app",
                        "kind": "Canary", "version": "v1beta1"}],
                    "properties": {"status": flaggers()}}}}}),
            ),
            ("GET", ONE) => Reply::Json(200, self.canary.clone()),
            ("PATCH", _) => self.patch(request),
            _ => Reply::Text(404, "404 page not found\n"),
        }
    }
}

async fn server(schema: Option<Value>) -> (Server, CachedStore, Shared) {
    let canary = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "a", "namespace": "x", "uid": "u", "resourceVersion": "10",
            "annotations": {"theirs": "stays"}},
        "status": {"phase": "Initialized"}});
    let keeps = vec!["phase"];
    let fake = Fake { canary, schema, keeps, published: false, broken: false, conflict: false };
    let fake = Arc::new(Mutex::new(fake));
    let shared = fake.clone();
    let server = Server::start(move |request| shared.lock().unwrap().answer(request)).await;
    let store = CachedStore::new(server.store(quick()));
    (server, store, fake)
}

async fn write(
    store: &CachedStore,
    patch: Value,
    expect: Option<u64>,
) -> Result<Value, StoreError> {
    let options = WriteOptions {
        subresource: Some(Subresource::Status),
        expect: expect.map(Revision::from),
        manager: "test",
    };
    let patch = Patch::Merge(json!({"status": patch}));
    let stored = soon(store.patch(&key(), &patch, &options)).await?;
    Ok(stored.json()["status"].clone())
}

fn writes(server: &Server) -> Vec<String> {
    let all = server.requests(|request| request.method == "PATCH");
    let name = |request: &Request| {
        if request.path().ends_with("/status") { "status" } else { "annotation" }
    };
    all.iter().map(|request| name(request).to_owned()).collect()
}

#[tokio::test]
async fn what_a_foreign_definition_drops_is_kept_and_read_back() {
    let (server, store, fake) = server(Some(flaggers())).await;
    let patch = json!({"phase": "Progressing", "evenkeel": {"tick": 1}});
    assert_eq!(write(&store, patch.clone(), Some(10)).await.unwrap(), patch);
    assert_eq!(writes(&server), ["annotation", "status"]);
    let stored = fake.lock().unwrap().canary.clone();
    assert_eq!(stored["status"], json!({"phase": "Progressing"}), "for people");
    assert_eq!(stored["metadata"]["annotations"]["theirs"], "stays");
    // Another process, which has nothing in memory.
    let other = CachedStore::new(server.store(quick()));
    let read = soon(other.get(&key())).await.unwrap().unwrap();
    assert_eq!(read.json()["status"], patch);

    // The next step is one write where nothing of it is for people.
    let status = write(&other, json!({"evenkeel": {"tick": 2}}), None).await.unwrap();
    assert_eq!(status, json!({"phase": "Progressing", "evenkeel": {"tick": 2}}));
    assert_eq!(writes(&server).len(), 3);
}

#[tokio::test]
async fn two_writers_do_not_lose_each_others_part() {
    let (server, store, fake) = server(Some(flaggers())).await;
    write(&store, json!({"evenkeel": {"tick": 1}}), Some(10)).await.unwrap();
    // Another process writes between our read and our write.
    let other = CachedStore::new(server.store(quick()));
    fake.lock().unwrap().conflict = true;
    write(&other, json!({"errorBudget": {"slo": "a"}}), None).await.unwrap();
    let both =
        json!({"phase": "Initialized", "evenkeel": {"tick": 1}, "errorBudget": {"slo": "a"}});
    let read = soon(store.get_latest(&key())).await.unwrap().unwrap();
    assert_eq!(read.json()["status"], both);
    // A plan that was made for an older object is refused, and nothing is written.
    let before = writes(&server).len();
    let stale = write(&store, json!({"evenkeel": {"tick": 9}}), Some(10)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    assert_eq!(writes(&server).len(), before);
}

#[tokio::test]
async fn what_people_see_may_be_refused_and_the_truth_is_written_all_the_same() {
    let (_server, store, fake) = server(Some(flaggers())).await;
    fake.lock().unwrap().keeps.clear();
    let patch = json!({"phase": "Progressing", "evenkeel": {"tick": 1}});
    assert_eq!(write(&store, patch.clone(), Some(10)).await.unwrap(), patch);
    assert_eq!(fake.lock().unwrap().canary["status"]["phase"], "Initialized");
    let read = soon(store.get_latest(&key())).await.unwrap().unwrap();
    assert_eq!(read.json()["status"], patch);
}

#[tokio::test]
async fn a_definition_that_keeps_everything_costs_no_second_write() {
    let (server, store, fake) = server(Some(free())).await;
    fake.lock().unwrap().keeps = vec!["phase", "evenkeel"];
    let patch = json!({"phase": "Progressing", "evenkeel": {"tick": 1}});
    assert_eq!(write(&store, patch, Some(10)).await.unwrap()["evenkeel"]["tick"], 1);
    assert_eq!(writes(&server), ["status"]);
    let definition = store.definition(&key().kind).await.unwrap().unwrap();
    assert!(definition.is_ours && definition.name == "canaries.flagger.app");
}

#[tokio::test]
async fn the_status_takes_over_again_when_it_has_a_place_for_everything() {
    let (server, store, fake) = server(Some(flaggers())).await;
    write(&store, json!({"evenkeel": {"tick": 1}}), Some(10)).await.unwrap();
    {
        let mut fake = fake.lock().unwrap();
        fake.schema = Some(free());
        fake.keeps = vec!["phase", "evenkeel"];
    }
    let other = CachedStore::new(server.store(quick()));
    let status = write(&other, json!({"phase": "Succeeded"}), None).await.unwrap();
    let all = json!({"phase": "Succeeded", "evenkeel": {"tick": 1}});
    assert_eq!(status, all);
    let stored = fake.lock().unwrap().canary.clone();
    assert_eq!(
        (&stored["status"], &stored["metadata"]["annotations"][STATUS]),
        (&all, &Value::Null)
    );
}

#[tokio::test]
async fn without_the_right_to_read_definitions_a_status_is_written_as_it_is() {
    let (server, store, _fake) = server(None).await;
    for _ in 0..3 {
        let patch = json!({"phase": "Progressing", "evenkeel": {"tick": 1}});
        let status = write(&store, patch, None).await.unwrap();
        assert_eq!(status, json!({"phase": "Progressing"}));
    }
    assert_eq!(writes(&server), ["status", "status", "status"]);
    let asked = server.requests(|request| request.path() == CRDS);
    assert_eq!(asked.len(), 1, "not at every write");
}

#[tokio::test]
async fn without_that_right_the_published_schema_tells_what_is_dropped() {
    let (server, store, fake) = server(None).await;
    fake.lock().unwrap().published = true;
    let patch = json!({"phase": "Progressing", "evenkeel": {"tick": 1}});
    assert_eq!(write(&store, patch.clone(), Some(10)).await.unwrap(), patch);
    assert_eq!(writes(&server), ["annotation", "status"]);
    let definition = store.definition(&key().kind).await.unwrap().unwrap();
    assert!(!definition.is_ours && definition.name == "canaries.flagger.app");
}

/// Who looks after Canaries.
async fn steward(store: &CachedStore) -> Result<Steward, StoreError> {
    let neighbours = Neighbours::new(store.clone(), Manage::Auto);
    soon(neighbours.of(&key().kind)).await
}

#[tokio::test]
async fn what_an_evenkeel_of_another_version_has_defined_is_not_anothers() {
    // Neither all of this version's fields nor its label.
    let mut older = flaggers();
    older["properties"]["evenkeel"] = json!({"type": "object", "properties": {}});
    let (_server, store, _fake) = server(Some(older)).await;
    assert_eq!(steward(&store).await.unwrap(), Steward::Evenkeel);
    let (_server, store, _fake) = server(Some(flaggers())).await;
    let theirs = steward(&store).await.unwrap();
    assert!(matches!(theirs, Steward::Other { name: "Flagger", .. }), "{theirs:?}");
}

#[tokio::test]
async fn without_a_definition_nobody_acts() {
    let (_server, store, _fake) = server(None).await;
    let unknown = steward(&store).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Refused { .. }), "{unknown}");
    assert!(unknown.to_string().contains("it may be Flagger's"), "{unknown}");
    // Unless a person has decided.
    let neighbours = Neighbours::new(store, Manage::All);
    assert_eq!(soon(neighbours.of(&key().kind)).await.unwrap(), Steward::Evenkeel);
}

#[tokio::test]
async fn a_published_schema_that_cannot_be_had_now_is_asked_for_again() {
    let (_server, store, fake) = server(None).await;
    {
        let mut fake = fake.lock().unwrap();
        (fake.published, fake.broken) = (true, true);
    }
    let failed = soon(store.definition(&key().kind)).await;
    assert!(matches!(failed, Err(StoreError::Unreachable { .. })), "{failed:?}");
    fake.lock().unwrap().broken = false;
    let definition = soon(store.definition(&key().kind)).await.unwrap().unwrap();
    assert!(!definition.is_ours);
}

#[tokio::test]
async fn the_annotation_stays_until_the_status_has_all_of_it() {
    let (server, store, fake) = server(Some(flaggers())).await;
    write(&store, json!({"evenkeel": {"tick": 1}}), Some(10)).await.unwrap();
    // The definition that is read is the new one; the server that answers still has the old one.
    fake.lock().unwrap().schema = Some(free());
    let other = CachedStore::new(server.store(quick()));
    let status = write(&other, json!({"phase": "Succeeded"}), None).await.unwrap();
    let all = json!({"phase": "Succeeded", "evenkeel": {"tick": 1}});
    assert_eq!(status, all);
    let read = soon(store.get_latest(&key())).await.unwrap().unwrap();
    assert_eq!(read.json()["status"], all);
}
