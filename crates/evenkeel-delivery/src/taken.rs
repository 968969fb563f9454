//! Objects that are there before a Canary makes its own, under the same names.
//!
//! A Canary that was made again finds what the last one of its name has left, and goes on with that.
//! What somebody else has made is not overwritten; Flagger does so without a word.

use evenkeel_api::{
    Obj,
    beside::{self, MANAGED},
};
use serde_json::Value;

use crate::{
    context::Context,
    services::{self, Role},
    workload::REVISION_ANNOTATION,
};

/// The first name that is taken, and what to do about it.
pub(crate) fn name(ctx: &Context<'_>) -> Option<String> {
    let (view, names) = (ctx.view, &ctx.view.names);
    let owner = view.obj.name();
    if let Some(primary) =
        view.primary.as_ref().filter(|it| !is_of(&it.obj, owner) && !is_copy(it.template()))
    {
        return Some(words(&primary.obj));
    }
    let other = [Role::Primary, Role::Canary].into_iter().find_map(|role| {
        let have = view.services.get(names.of(role))?;
        let want = services::service(&view.canary.spec, names, role, ctx.target, ctx.owner);
        let selector = |service: &Value| service.pointer("/spec/selector").cloned();
        let same = have.controller().is_none() && selector(have.json()) == selector(&want);
        (!same && !is_of(have, owner)).then(|| words(have))
    });
    let apex = view.services.get(&names.apex);
    let external = apex.filter(|apex| is_external(apex));
    let external = external.map(|apex| {
        format!(
            "{} is of type ExternalName, behind which there are no pods: name another Service in \
             spec.service.name",
            apex.key()
        )
    });
    other.or(external)
}

/// Whether a Service is only another name of a server.
pub(crate) fn is_external(service: &Obj) -> bool {
    let kind = service.json().pointer("/spec/type").and_then(Value::as_str);
    kind == Some("ExternalName")
}

/// Whether an object belongs to a Canary of this name, also one that is not there any more, or was
/// handed to it by a person.
fn is_of(obj: &Obj, canary: &str) -> bool {
    let owners = obj.meta().owner_references.iter().flatten();
    let owned = owners.into_iter().any(|owner| owner.kind == "Canary" && owner.name == canary);
    owned || beside::annotation(obj.json(), MANAGED) == Some("true")
}

/// Whether evenkeel has made these pods from a target's.
fn is_copy(template: &Value) -> bool {
    template
        .pointer("/metadata/annotations")
        .is_some_and(|all| all.get(REVISION_ANNOTATION).is_some())
}

fn words(obj: &Obj) -> String {
    format!(
        "{} is there already and not of this Canary: rename one of the two, or hand it over by the \
         annotation {MANAGED}: \"true\" on it",
        obj.key()
    )
}
