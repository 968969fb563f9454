//! `PersistentVolumeClaim`: its volume, found or made; its phase; its protection.

use std::collections::BTreeSet;

use evenkeel_api::{ApiObject, GroupKind, Key, Obj, json::difference, local_volumes};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports, Wakes,
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_FINALIZER, STORAGE_PROVISIONER, annotation,
    class_of, default_of, finalizers, has_finalizer, matching, provision,
};
use crate::{
    node_terms::volume_allows,
    pods, reasons,
    seen::{Seen, get_as, json, list_as},
};

/// The controller.
pub(crate) struct Claims;

/// What one claim's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) claim: Seen<PersistentVolumeClaim>,
    /// All volumes, or only its own when it names one.
    pub(crate) volumes: Vec<Seen<PersistentVolume>>,
    pub(crate) classes: Vec<Seen<StorageClass>>,
    /// Pods that use it.
    pub(crate) users: Vec<Seen<Pod>>,
    /// The node that its pod is to run on, if that is there.
    pub(crate) node: Option<Seen<Node>>,
}

impl Controller for Claims {
    type View = View;

    fn name(&self) -> &'static str {
        "persistentvolume-binder"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<PersistentVolumeClaim>()
    }

    fn also(&self) -> Vec<Interest> {
        let volume = Interest::mapped::<PersistentVolume>(|volume| {
            match volume.get::<PersistentVolume>().ok().and_then(|volume| claim_of(&volume)) {
                Some(claim) => Wakes::These(vec![claim]),
                // One that is free may be what any of them waits for.
                None => Wakes::All,
            }
        });
        let class = Interest::mapped::<StorageClass>(|_| Wakes::All);
        let pod = Interest::mapped::<Pod>(|pod| Wakes::These(claims_of(pod))).minding(|pod| {
            format!("{:?} {:?}", claims_of(pod), pod.json().pointer("/spec/nodeName"))
        });
        vec![volume, class, pod]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(claim) = get_as::<PersistentVolumeClaim>(ports, key).await? else {
            return Ok(None);
        };
        let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        let volumes = match named.filter(|name| !name.is_empty()) {
            Some(name) => {
                let key = Key::of::<PersistentVolume>("", name);
                get_as::<PersistentVolume>(ports, &key).await?.into_iter().collect()
            }
            None => list_as(ports, &every::<PersistentVolume>()).await?,
        };
        let classes = list_as(ports, &every::<StorageClass>()).await?;
        let mut users = Vec::new();
        for pod in list_as::<Pod>(ports, &every::<Pod>().within(&key.namespace)).await? {
            if claims_of(&pod.obj).contains(key) {
                users.push(pod);
            }
        }
        let selected = annotation(&claim.obj, local_volumes::SELECTED_NODE);
        let node = match selected {
            Some(name) => get_as::<Node>(ports, &Key::of::<Node>("", name)).await?,
            None => None,
        };
        Ok(Some(View { claim, volumes, classes, users, node }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

fn every<T: ApiObject>() -> ListQuery {
    ListQuery::all(GroupKind::of::<T>())
}

/// The claims that a pod uses.
pub(crate) fn claims_of(pod: &Obj) -> Vec<Key> {
    let volumes = pod.json().pointer("/spec/volumes").and_then(Value::as_array);
    let names = volumes.into_iter().flatten().filter_map(|volume| {
        let named = volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str);
        let made = volume.get("ephemeral").filter(|ephemeral| !ephemeral.is_null());
        let made = made.and_then(|_| {
            Some(format!("{}-{}", pod.name(), volume.get("name").and_then(Value::as_str)?))
        });
        named.map(str::to_owned).or(made)
    });
    let keys: BTreeSet<Key> =
        names.map(|name| Key::of::<PersistentVolumeClaim>(pod.namespace(), &name)).collect();
    keys.into_iter().collect()
}

fn claim_of(volume: &PersistentVolume) -> Option<Key> {
    let of = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::of::<PersistentVolumeClaim>(of.namespace.as_deref()?, of.name.as_deref()?))
}

/// Protects the claim, gives it a class, and binds it; or says what it waits for.
pub(crate) fn decide(view: &View) -> Plan {
    let claim = &view.claim;
    let held = has_finalizer(&claim.obj, CLAIM_FINALIZER);
    if claim.obj.is_deleting() {
        // **Source**: `podUsesPVC`: a pod without a node starts no more.
        if !held || view.users.iter().any(|pod| pods::node(pod).is_some()) {
            return Plan::idle(reasons::BEING_DELETED);
        }
        return patch(
            reasons::UNUSED,
            claim,
            json!({"metadata": {"finalizers": finalizers(&claim.obj, CLAIM_FINALIZER, false)}}),
        );
    }
    if !held {
        return patch(
            reasons::PROTECTING,
            claim,
            json!({"metadata": {"finalizers": finalizers(&claim.obj, CLAIM_FINALIZER, true)}}),
        );
    }
    let is_bound = annotation(&claim.obj, BIND_COMPLETED).is_some();
    if class_of(claim).is_none()
        && !is_bound
        && let Some(class) = default_of(view.classes.iter())
    {
        let spec = json!({"spec": {"storageClassName": class.name()}});
        return patch(reasons::CLASS_GIVEN, claim, spec);
    }
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    if named.is_some_and(|name| !name.is_empty()) {
        return with_volume(view, is_bound);
    }
    if let Some(volume) = view.volumes.iter().find(|volume| matching::is_bound_to(volume, claim)) {
        return bind(claim, volume);
    }
    search(view)
}

/// A claim that names its volume.
fn with_volume(view: &View, is_bound: bool) -> Plan {
    let claim = &view.claim;
    let Some(volume) = view.volumes.first() else {
        if is_bound {
            return lost(
                claim,
                reasons::CLAIM_LOST,
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            );
        }
        return pending(claim, reasons::WAITING_FOR_VOLUME);
    };
    let free = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none());
    if free
        && !is_bound
        && let Some(problem) = matching::mismatch(volume, claim)
    {
        let message = format!("Cannot bind to requested volume \"{}\": {problem}", volume.name());
        return waiting(claim, EventType::Warning, reasons::VOLUME_MISMATCH, message);
    }
    // **Source**: `syncBoundClaim`: a volume whose half was taken away gets it again.
    if matching::is_bound_to(volume, claim) || free {
        return bind(claim, volume);
    }
    if is_bound {
        return lost(
            claim,
            reasons::CLAIM_MISBOUND,
            "Two claims are bound to the same volume, this one is bound incorrectly",
        );
    }
    let message = format!("volume \"{}\" already bound to a different claim.", volume.name());
    waiting(claim, EventType::Warning, reasons::FAILED_BINDING, message)
}

/// Both halves of the binding, then what the claim has.
///
/// **Source**: `bind` in `pkg/controller/volume/persistentvolume/pv_controller.go`.
fn bind(claim: &Seen<PersistentVolumeClaim>, volume: &Seen<PersistentVolume>) -> Plan {
    let mut plan = Plan::idle(reasons::SETTLED);
    let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if of.and_then(|of| of.uid.as_deref()) != Some(claim.uid()) {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": claim.obj.namespace(), "name": claim.name(), "uid": claim.uid()});
        let mut body = json!({"spec": {"claimRef": reference}});
        if of.is_none() {
            body["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        }
        let (key, revision) = volume.assumed();
        plan.actions.push(Action::Patch { key: key.clone(), patch: body });
        plan = plan.assuming(key, revision);
    }
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let is_named = named == Some(volume.name());
    if !is_named || annotation(&claim.obj, BIND_COMPLETED).is_none() {
        let mut body = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
        if !is_named {
            body["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
            body["spec"] = json!({"volumeName": volume.name()});
        }
        plan.actions.push(Action::Patch { key: claim.key().clone(), patch: body });
    }
    if !plan.actions.is_empty() {
        plan.reason = reasons::BINDING;
    }
    if let Some(grown) = grow(claim, volume) {
        plan.reason = reasons::RESIZING;
        plan.actions.push(grown);
        return plan;
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let status = json!({"phase": "Bound", "accessModes": spec.access_modes,
        "capacity": spec.capacity.map(|capacity| json(&capacity))});
    let before = claim.status.as_ref().map_or_else(|| json!({}), json);
    match difference(&before, &merged(&before, &status)) {
        Some(change) => {
            if plan.actions.is_empty() {
                plan.reason = reasons::STATUS_CHANGED;
            }
            plan.with_status(claim.key().clone(), change)
        }
        None => plan,
    }
}

/// A folder is as large as its disk: only the status of a claim that asks for more changes.
fn grow(claim: &Seen<PersistentVolumeClaim>, volume: &Seen<PersistentVolume>) -> Option<Action> {
    let spec = volume.spec.as_ref()?;
    local_volumes::folder(spec)?;
    let wanted = matching::requested(claim.spec.as_ref()?)?;
    let have = spec.capacity.as_ref()?.get("storage");
    (matching::bytes(have) < matching::bytes(Some(wanted))).then(|| Action::Patch {
        key: volume.key().clone(),
        patch: json!({"spec": {"capacity": {"storage": wanted}}}),
    })
}

fn merged(before: &Value, change: &Value) -> Value {
    let mut after = before.clone();
    evenkeel_api::json::merge(&mut after, change);
    after
}

/// Looks for a volume, or makes one, or says what that waits for.
fn search(view: &View) -> Plan {
    let claim = &view.claim;
    let name = class_of(claim).unwrap_or_default();
    let class = view.classes.iter().find(|class| class.name() == name);
    let waits =
        class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if waits && view.node.is_none() {
        let (reason, message) = match view.users.first() {
            Some(pod) => (
                reasons::WAIT_FOR_POD_SCHEDULED,
                format!("waiting for pod {} to be scheduled", pod.name()),
            ),
            None => (
                reasons::WAIT_FOR_FIRST_CONSUMER,
                "waiting for first consumer to be created before binding".to_owned(),
            ),
        };
        return waiting(claim, EventType::Normal, reason, message);
    }
    let may_use = |volume: &PersistentVolume| {
        view.node.as_ref().is_none_or(|node| volume_allows(volume, node))
    };
    if let Some(volume) = matching::best(&view.volumes, claim, may_use) {
        return bind(claim, volume);
    }
    let Some(class) = class else {
        if name.is_empty() {
            let message = "no persistent volumes available for this claim and no storage class is \
                set";
            return waiting(claim, EventType::Normal, reasons::FAILED_BINDING, message.to_owned());
        }
        let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
        return waiting(claim, EventType::Warning, reasons::PROVISIONING_FAILED, message);
    };
    if class.provisioner == local_volumes::PROVISIONER {
        return provision(view, class);
    }
    if class.provisioner == "kubernetes.io/no-provisioner" {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return waiting(claim, EventType::Normal, reasons::FAILED_BINDING, message.to_owned());
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{}' or manually by \
         the system administrator. If volume creation is delayed, please verify that the \
         provisioner is running and correctly registered.",
        class.provisioner
    );
    waiting(claim, EventType::Normal, reasons::EXTERNAL_PROVISIONING, message)
}

fn provision(view: &View, class: &Seen<StorageClass>) -> Plan {
    let claim = &view.claim;
    let failed = |problem: String| {
        let message =
            format!("failed to provision volume with StorageClass \"{}\": {problem}", class.name());
        waiting(claim, EventType::Warning, reasons::PROVISIONING_FAILED, message)
    };
    if let Some(problem) = provision::refusal(claim) {
        return failed(problem);
    }
    let Some(node) = &view.node else {
        let problem = "configuration error, no node was specified: its volumeBindingMode has to be \
            WaitForFirstConsumer";
        return failed(problem.to_owned());
    };
    let host = node.obj.label(evenkeel_api::labels::HOSTNAME).unwrap_or(node.name());
    let Some(volume) = provision::volume(claim, class, host) else {
        return failed("the claim asks for no storage".to_owned());
    };
    let note = |reason, message| EventNote {
        about: claim.key().clone(),
        kind: EventType::Normal,
        reason,
        message,
    };
    let begun = format!(
        "External provisioner is provisioning volume for claim \"{}/{}\"",
        claim.obj.namespace(),
        claim.name()
    );
    let done = format!("Successfully provisioned volume {}", volume.name());
    let told = json!({"metadata": {"annotations": {STORAGE_PROVISIONER: class.provisioner}}});
    let mut actions = Vec::new();
    if annotation(&claim.obj, STORAGE_PROVISIONER).is_none() {
        actions.push(Action::Patch { key: claim.key().clone(), patch: told });
    }
    actions.push(Action::Create(Box::new(volume)));
    Plan::act(reasons::PROVISIONING_SUCCEEDED, actions)
        .with_event(note(reasons::PROVISIONING, begun))
        .with_event(note(reasons::PROVISIONING_SUCCEEDED, done))
}

fn lost(claim: &Seen<PersistentVolumeClaim>, reason: &'static str, message: &str) -> Plan {
    if phase(claim) == "Lost" {
        return Plan::idle(reason);
    }
    Plan::idle(reason).with_status(claim.key().clone(), json!({"phase": "Lost"})).with_event(
        EventNote {
            about: claim.key().clone(),
            kind: EventType::Warning,
            reason,
            message: message.to_owned(),
        },
    )
}

fn waiting(
    claim: &Seen<PersistentVolumeClaim>,
    kind: EventType,
    reason: &'static str,
    message: String,
) -> Plan {
    pending(claim, reason).with_event(EventNote {
        about: claim.key().clone(),
        kind,
        reason,
        message,
    })
}

fn pending(claim: &Seen<PersistentVolumeClaim>, reason: &'static str) -> Plan {
    let plan = Plan::idle(reason);
    if phase(claim) == "Pending" {
        return plan;
    }
    plan.with_status(claim.key().clone(), json!({"phase": "Pending"}))
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn patch(reason: &'static str, claim: &Seen<PersistentVolumeClaim>, patch: Value) -> Plan {
    let (key, revision) = claim.assumed();
    Plan::act(reason, vec![Action::Patch { key: key.clone(), patch }]).assuming(key, revision)
}
