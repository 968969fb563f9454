use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::{Key, Obj, Revision};

use crate::{ListQuery, Read, Reread, StoreError};

/// What was read out of objects, kept for as long as they stay as they are.
///
/// For looks that need little of many objects, again and again: an object in the form in which it
/// is used takes time to make, and of most of them only the revision is asked for.
#[derive(Debug)]
pub struct Memo<T> {
    kept: Mutex<BTreeMap<Key, (Revision, Arc<T>)>>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<T: Send + Sync> Memo<T> {
    /// What `of` makes of one object; `None` when there is none.
    ///
    /// **Errors**: it cannot be read. What was kept stays, and is not answered.
    pub async fn get(
        &self,
        read: &dyn Read,
        key: &Key,
        of: impl Fn(&Obj) -> T + Send + Sync,
    ) -> Result<Option<Arc<T>>, StoreError> {
        let is_kept = |key: &Key, revision: &str| self.has(key, revision);
        let Some(found) = read.get_changed(key, &is_kept).await? else {
            self.kept().remove(key);
            return Ok(None);
        };
        self.value(read, found, &of).await
    }

    /// What `of` makes of each object of a kind and namespace, by key.
    ///
    /// `query` asks for all of them: what it does not find is forgotten.
    ///
    /// **Errors**: they cannot be read. What was kept stays, and is not answered.
    pub async fn list(
        &self,
        read: &dyn Read,
        query: &ListQuery,
        of: impl Fn(&Obj) -> T + Send + Sync,
    ) -> Result<Vec<(Key, Arc<T>)>, StoreError> {
        let is_kept = |key: &Key, revision: &str| self.has(key, revision);
        let found = read.list_changed(query, &is_kept).await?;
        self.forget_others(query, &found);
        let mut values = Vec::with_capacity(found.len());
        for one in found {
            let key = one.key().clone();
            values.extend(self.value(read, one, &of).await?.map(|value| (key, value)));
        }
        Ok(values)
    }

    /// Forgets one object.
    pub fn forget(&self, key: &Key) {
        self.kept().remove(key);
    }

    /// Forgets all objects of a namespace. A look that lists them does so by itself; this is for when
    /// there may be none any more.
    pub fn forget_all_in(&self, namespace: &str) {
        self.kept().retain(|key, _| *key.namespace != *namespace);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.kept().clear();
    }

    async fn value(
        &self,
        read: &dyn Read,
        found: Reread,
        of: &(impl Fn(&Obj) -> T + Send + Sync),
    ) -> Result<Option<Arc<T>>, StoreError> {
        let obj = match found {
            Reread::Changed(obj) => obj,
            Reread::Same(key) => {
                let kept = self.kept().get(&key).map(|(_, value)| value.clone());
                // Another look may have found it gone meanwhile.
                if kept.is_some() {
                    return Ok(kept);
                }
                match read.get(&key).await? {
                    Some(obj) => obj,
                    None => return Ok(None),
                }
            }
        };
        let value = Arc::new(of(&obj));
        self.kept().insert(obj.key().clone(), (obj.revision(), value.clone()));
        Ok(Some(value))
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, (Revision, Arc<T>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, key: &Key, revision: &str) -> bool {
        self.kept().get(key).is_some_and(|(kept, _)| *kept.0 == *revision)
    }

    fn forget_others(&self, query: &ListQuery, found: &[Reread]) {
        let in_query = |key: &&Key| {
            let namespace = query.namespace.as_ref();
            key.kind == query.kind && namespace.is_none_or(|name| *name == key.namespace)
        };
        let first = Key::new(query.kind.clone(), query.namespace.as_deref().unwrap_or(""), "");
        let found: BTreeSet<&Key> = found.iter().map(Reread::key).collect();
        let mut kept = self.kept();
        let inside = kept.range(first..).map(|(key, _)| key).take_while(in_query);
        let gone: Vec<Key> = inside.filter(|key| !found.contains(key)).cloned().collect();
        for key in gone {
            kept.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use evenkeel_api::GroupKind;
    use futures::{FutureExt as _, stream};
    use serde_json::json;

    use super::*;
    use crate::{BoxFuture, Listed, Watch};

    /// Objects by name, with their revisions; `None` for a server that does not answer.
    struct Objects(Mutex<Option<BTreeMap<&'static str, u64>>>);

    impl Objects {
        fn set(&self, objects: &[(&'static str, u64)]) {
            *self.0.lock().unwrap() = Some(objects.iter().copied().collect());
        }

        fn all(&self) -> Result<Vec<Arc<Obj>>, StoreError> {
            let objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let objects = objects.as_ref().ok_or_else(|| StoreError::Busy {
                object: "x".to_owned(),
                problem: "away".to_owned(),
            })?;
            let obj = |(name, revision): (&&str, &u64)| {
                let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
                    "name": name, "namespace": "x", "resourceVersion": revision.to_string()}});
                Ok(Arc::new(Obj::from_json(body)?))
            };
            objects.iter().map(obj).collect()
        }
    }

    impl Read for Objects {
        fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
            let found = self.all().map(|all| all.into_iter().find(|obj| obj.key() == key));
            async { found }.boxed()
        }

        fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
            let listed = self.all().map(|items| Listed { items, revision: Revision::default() });
            async { listed }.boxed()
        }

        fn watch(&self, _: ListQuery) -> Watch {
            Box::pin(stream::pending())
        }
    }

    #[test]
    fn an_object_is_read_once_per_revision_and_never_remembered_when_it_is_gone() {
        let (objects, memo, made) =
            (Objects(Mutex::default()), Memo::default(), AtomicUsize::new(0));
        let query = ListQuery::all(GroupKind::new("", "ConfigMap")).within("x");
        let of = |obj: &Obj| {
            made.fetch_add(1, Ordering::Relaxed);
            format!("{}@{}", obj.name(), obj.revision())
        };
        let list = || {
            let listed = memo.list(&objects, &query, of).now_or_never().unwrap();
            listed.map(|all| all.iter().map(|(_, text)| (**text).clone()).collect::<Vec<_>>())
        };
        let count = || made.swap(0, Ordering::Relaxed);
        objects.set(&[("a", 1), ("b", 2)]);
        assert_eq!((list().unwrap(), count()), (vec!["a@1".to_owned(), "b@2".to_owned()], 2));
        assert_eq!((list().unwrap().len(), count()), (2, 0));
        objects.set(&[("a", 1), ("b", 3)]);
        assert_eq!((list().unwrap(), count()), (vec!["a@1".to_owned(), "b@3".to_owned()], 1));
        *objects.0.lock().unwrap() = None;
        assert!(list().is_err(), "what was kept is no answer");
        objects.set(&[("b", 3)]);
        assert_eq!((list().unwrap(), count()), (vec!["b@3".to_owned()], 0));
        assert_eq!(memo.kept().len(), 1);
        let key = Key::new(GroupKind::new("", "ConfigMap"), "x", "b");
        let get = || memo.get(&objects, &key, of).now_or_never().unwrap().unwrap();
        assert_eq!((get().as_deref().map(String::as_str), count()), (Some("b@3"), 0));
        objects.set(&[]);
        assert_eq!(get(), None);
        assert!(memo.kept().is_empty());
    }
}
