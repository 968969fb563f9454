//! Writes of a status under a definition that has no place for all of it.

use std::sync::Arc;

use evenkeel_api::{Key, Obj, beside::STATUS, json};
use evenkeel_control::{Patch, Read as _, StoreError, Subresource, Write as _, WriteOptions};
use serde_json::{Value, json};

use super::{CachedStore, definitions::may_be_foreign};
use crate::{annex, schema::StatusSchema};

/// Attempts to put a field in its place while others write the same object.
const TRIES: usize = 4;

impl CachedStore {
    /// Merges a patch into the status of an object. What the API server would drop is kept in an
    /// annotation of the object, see [`annex`].
    pub(super) async fn patch_status(
        &self,
        key: &Key,
        patch: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Obj>, StoreError> {
        if !may_be_foreign(&key.kind) {
            return self.patch_plainly(key, patch, options).await;
        }
        // Without the right to read it: what was begun in the annotation goes on there.
        let definition = self.definition(&key.kind).await?;
        let schema = definition.as_ref().map(|definition| &definition.status);
        let mut known = self.get(key).await?;
        for attempt in 1..=TRIES {
            let is_old = |obj: &Arc<Obj>| {
                options.expect.as_ref().is_some_and(|expect| *expect != obj.revision())
            };
            if known.as_ref().is_some_and(is_old) {
                known = self.get_latest(key).await?;
            }
            let object = key.to_string();
            let Some(obj) = &known else { return Err(StoreError::NotFound { object }) };
            if is_old(obj) {
                let problem = format!("it is at revision {} now", obj.revision());
                return Err(StoreError::Conflict { object, problem });
            }
            let old = annex::fields(obj.json());
            let old = old.map_err(|problem| StoreError::Refused { object, problem })?;
            if old.is_none() && schema.is_none_or(|schema| schema.lost(patch).is_empty()) {
                return self.patch_plainly(key, patch, options).await;
            }
            let mut status = obj.json().get("status").cloned().unwrap_or_else(|| json!({}));
            json::merge(&mut status, patch);
            let fields = Value::Object(annex::with(old, &status, patch));
            match self.keep(obj, Some(&fields), options).await {
                Err(StoreError::Conflict { .. }) if options.expect.is_none() && attempt < TRIES => {
                    known = self.get_latest(key).await?;
                }
                Err(error) => return Err(error),
                Ok(stored) => {
                    let stored = match Face::of(schema, fields, patch) {
                        Some(face) => self.show(stored, face, options).await,
                        None => stored,
                    };
                    self.written(&stored);
                    return Ok(stored);
                }
            }
        }
        let problem = "others change it all the time".to_owned();
        Err(StoreError::Conflict { object: key.to_string(), problem })
    }

    async fn patch_plainly(
        &self,
        key: &Key,
        patch: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Obj>, StoreError> {
        let stored = self.live.patch(key, &Patch::Merge(json!({"status": patch})), options).await?;
        self.written(&stored);
        Ok(stored)
    }

    /// Writes the annotation, or takes it away.
    async fn keep(
        &self,
        obj: &Obj,
        fields: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<Arc<Obj>, StoreError> {
        let fields = fields.and_then(Value::as_object).cloned();
        let text = fields.map(|fields| annex::text(obj.uid(), fields));
        let patch = Patch::Merge(json!({"metadata": {"annotations": {STATUS: text}}}));
        let expect = Some(obj.revision());
        let options = WriteOptions { subresource: None, expect, manager: options.manager };
        self.live.patch(obj.key(), &patch, &options).await
    }

    /// Shows people in the status what the annotation holds. That this fails changes nothing of what
    /// counts.
    async fn show(&self, stored: Arc<Obj>, face: Face, options: &WriteOptions) -> Arc<Obj> {
        let shown = Patch::Merge(json!({"status": face.status}));
        let status = WriteOptions {
            subresource: Some(Subresource::Status),
            expect: Some(stored.revision()),
            manager: options.manager,
        };
        let showing = async {
            let shown = self.live.patch(stored.key(), &shown, &status).await?;
            let over = face.is_whole && self.has_all(&shown).await?;
            if over { self.keep(&shown, None, options).await } else { Ok(shown) }
        };
        showing.await.unwrap_or_else(|error| {
            tracing::debug!(object = %stored.key(), %error, "status not shown");
            stored.clone()
        })
    }
}

impl CachedStore {
    /// Whether the status has all that the annotation holds. The definition may say so before each
    /// API server keeps to it: what the server has stored is read, without the annotation in its place.
    async fn has_all(&self, shown: &Obj) -> Result<bool, StoreError> {
        let Some(raw) = self.live.raw(shown.key()).await? else { return Ok(false) };
        let revision = raw.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let same = revision == Some(&*shown.revision().0);
        let Ok(Some(fields)) = annex::fields(&raw) else { return Ok(false) };
        let status = raw.get("status");
        let is_there = |(name, part): (&String, &Value)| {
            let have = status.and_then(|status| status.get(name)).unwrap_or(&Value::Null);
            have == part || (!part.is_null() && json::missing(have, part).is_none())
        };
        Ok(same && fields.iter().all(is_there))
    }
}

/// So much of what the annotation holds as the status has a place for.
struct Face {
    status: Value,
    /// Everything: the status takes over from the annotation.
    is_whole: bool,
}

impl Face {
    /// `None` when a patch changes nothing of it.
    fn of(schema: Option<&StatusSchema>, mut fields: Value, patch: &Value) -> Option<Self> {
        let kept = |status: &Value| schema.map_or_else(|| status.clone(), |s| s.kept(status));
        let of_patch = kept(patch);
        if of_patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return None;
        }
        let is_whole = schema.is_some_and(|schema| schema.lost(&fields).is_empty());
        with_deletions(&mut fields, patch);
        Some(Self { status: kept(&fields), is_whole })
    }
}

/// What a patch deletes is deleted where it is merged into something older, too.
fn with_deletions(fields: &mut Value, patch: &Value) {
    let (Some(fields), Some(patch)) = (fields.as_object_mut(), patch.as_object()) else { return };
    for (name, part) in patch {
        if part.is_null() {
            fields.entry(name.clone()).or_insert(Value::Null);
        } else if let Some(field) = fields.get_mut(name) {
            with_deletions(field, part);
        }
    }
}
