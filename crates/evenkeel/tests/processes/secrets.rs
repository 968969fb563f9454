//! What is planted in a cluster and around it, and where it must not come up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use evenkeel_api::{GroupKind, Obj, canary::Canary, httproute::HttpRoute};
use evenkeel_control::ListQuery;
use futures::executor::block_on;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Event, Namespace, Secret, Service},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, PLANTED},
    process,
};

/// [`PLANTED`] as a Secret has it.
const ENCODED: &str = "cGw0bnRlZFg=";
/// Where webhooks and chats send to.
const PATHS: [&str; 2] = ["/hook?", "/services/"];
/// Lines of a record that are shown in full.
const SHOWN_MAX: usize = 25;

/// Takes no webhook and no notification, and repeats what it was sent. Notes where to.
pub(crate) fn refuse(request: &Request<Bytes>) -> (String, Response<Full<Bytes>>) {
    let token = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
    let token = token.unwrap_or_default().replace("Bearer ", "");
    let target = request.uri().to_string();
    let words = format!("Cannot POST {target} with {token:?}: {PLANTED} is not known");
    let mut response = Response::new(Full::new(Bytes::from(words)));
    *response.status_mut() = StatusCode::FORBIDDEN;
    (target, response)
}

/// A container whose variable comes from a Secret.
pub(crate) fn container(name: &str, version: u32) -> Value {
    let from = json!({"secretKeyRef": {"name": format!("{name}-db"), "key": "password"}});
    json!({"name": "app", "image": format!("evenkeel/demo:v{version}"),
        "env": [{"name": "PASSWORD", "valueFrom": from}], "ports": [{"containerPort": 8080}]})
}

impl Cluster {
    fn secret(&self, ns: &str, name: &str, fields: &[(&str, String)]) {
        let encoded = |(field, value): &(&str, String)| {
            ((*field).to_owned(), json!(ByteString(value.clone().into_bytes())))
        };
        let data: serde_json::Map<_, _> = fields.iter().map(encoded).collect();
        self.create(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": ns}, "type": "Opaque", "data": data}));
    }

    /// The Secrets of a service, and who is told about its releases: fields of their analysis.
    pub(crate) fn plant(&self, ns: &str, name: &str) -> Value {
        let addr = self.receiver.addr;
        self.secret(ns, &format!("{name}-db"), &[("password", PLANTED.to_owned())]);
        let chat = format!("{name}-chat");
        let address = format!("http://{addr}/services/{PLANTED}");
        self.secret(ns, &chat, &[("address", address), ("token", PLANTED.to_owned())]);
        self.create(json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
            "metadata": {"name": chat, "namespace": ns},
            "spec": {"type": "slack", "secretRef": {"name": chat}}}));
        json!({"webhooks": [{"name": "pager", "type": "event",
                "url": format!("http://ann:{PLANTED}@{addr}/hook?key={PLANTED}")}],
            "alerts": [{"name": "ops", "severity": "info", "providerRef": {"name": chat}}]})
    }

    /// Fails when what was planted is in an object, in an answer of a process, in what its record
    /// is shown as, or in a file that is not a kubeconfig.
    pub(crate) fn has_kept_its_secret(&self) {
        let kinds = [
            GroupKind::new("flagger.app", "AlertProvider"),
            GroupKind::of::<Canary>(),
            GroupKind::of::<HttpRoute>(),
            GroupKind::of::<Deployment>(),
            GroupKind::of::<Lease>(),
            GroupKind::of::<ConfigMap>(),
            GroupKind::of::<Event>(),
            GroupKind::of::<Namespace>(),
            GroupKind::of::<Secret>(),
            GroupKind::of::<Service>(),
        ];
        for kind in kinds {
            for obj in block_on(self.store.list(&ListQuery::all(kind))).unwrap().items {
                is_clean(&beside_what_was_planted(&obj).to_string(), obj.name());
            }
        }
        if self.has_released() {
            let targets = self.receiver.told();
            let told = PATHS.map(|path| targets.keys().any(|target| target.starts_with(path)));
            assert_eq!(told, [true, true], "the webhook and the chat: {targets:?}");
        }
        for folder in folders(&self.home) {
            self.ask_for_everything(&folder);
        }
        let mut seen = 0;
        let mut left = vec![self.home.clone()];
        while let Some(folder) = left.pop() {
            left.extend(folders(&folder));
            for path in entries(&folder).into_iter().filter(|path| path.is_file()) {
                let name = path.file_name().unwrap().to_string_lossy();
                if !["direct.kubeconfig", "kubeconfig"].contains(&&*name) {
                    let text = fs::read(&path).unwrap();
                    is_clean(&String::from_utf8_lossy(&text), &path.display().to_string());
                    seen += 1;
                }
            }
        }
        assert!(seen > 0, "no process has written anything");
    }

    /// Writes into a process' folder what it answers, and what is shown of its record.
    fn ask_for_everything(&self, folder: &Path) {
        let said = fs::read_to_string(folder.join("stdout")).unwrap_or_default();
        let objects = self.canaries().into_iter().map(|name| format!("?object=Canary/{name}"));
        for object in objects.chain([String::new()]) {
            let answer = process::ask(&said, &format!("why{object}")).unwrap_or_default();
            is_clean(&answer, "/why");
        }
        let data = folder.join("data");
        if !data.join("audit").exists() {
            return;
        }
        let list = self.audit(&data, &["list", "-o", "json"]);
        is_clean(&list, "audit list");
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        for line in list.iter().rev().take(SHOWN_MAX) {
            is_clean(&self.audit(&data, &["show", &line["seq"].to_string()]), "audit show");
        }
    }
}

/// An object without the fields that tests plant something in.
fn beside_what_was_planted(obj: &Obj) -> Value {
    let mut body = obj.json().clone();
    if obj.key().kind.is::<Secret>() {
        body["data"].take();
    } else if obj.key().kind.is::<Canary>() {
        body["spec"]["analysis"]["webhooks"].take();
    }
    body
}

fn is_clean(text: &str, place: &str) {
    assert!(![PLANTED, ENCODED].iter().any(|planted| text.contains(planted)), "{place}: {text}");
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}
