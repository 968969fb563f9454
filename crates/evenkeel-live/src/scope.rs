//! Controllers of one namespace, with rights in that namespace.

use std::sync::Arc;

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{
    BoxFuture, DeleteOptions, IsKept, ListQuery, Listed, Patch, Read, Reread, Store, StoreError,
    Subresource, Watch, Write, WriteOptions,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

/// A store that knows one namespace. What is asked of all namespaces is asked of that one; what is
/// asked of another is refused without asking the server, which would refuse it, too. Leases may be
/// in a namespace of their own.
pub struct OneNamespace<S> {
    store: S,
    namespace: Arc<str>,
    leases: Arc<str>,
}

impl<S: Store> OneNamespace<S> {
    /// `store`, for the objects of `namespace` and the Leases of `leases`.
    pub fn new(store: S, namespace: &str, leases: &str) -> Self {
        Self { store, namespace: namespace.into(), leases: leases.into() }
    }

    fn has(&self, kind: &GroupKind, namespace: &str) -> bool {
        *namespace == *self.namespace
            || (*namespace == *self.leases && *kind == GroupKind::of::<Lease>())
    }

    fn check(&self, key: &Key) -> Result<(), StoreError> {
        if self.has(&key.kind, &key.namespace) {
            Ok(())
        } else {
            Err(self.outside(&key.to_string()))
        }
    }

    /// The part of a query that is in the namespace.
    fn narrow(&self, query: &ListQuery) -> Result<ListQuery, StoreError> {
        match &query.namespace {
            None => Ok(query.clone().within(&self.namespace)),
            Some(namespace) if self.has(&query.kind, namespace) => Ok(query.clone()),
            Some(namespace) => Err(self.outside(&format!("{}/{namespace}", query.kind))),
        }
    }

    fn outside(&self, object: &str) -> StoreError {
        StoreError::Refused {
            object: object.to_owned(),
            problem: format!("is outside of namespace {} (--watch-namespace)", self.namespace),
        }
    }
}

impl<S: Store> Read for OneNamespace<S> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.store.get(key).await
        })
    }

    fn get_latest<'a>(
        &'a self,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.store.get_latest(key).await
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move { self.store.list(&self.narrow(query)?).await })
    }

    fn get_changed<'a>(
        &'a self,
        key: &'a Key,
        is_kept: &'a IsKept<'a>,
    ) -> BoxFuture<'a, Result<Option<Reread>, StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.store.get_changed(key, is_kept).await
        })
    }

    fn list_changed<'a>(
        &'a self,
        query: &'a ListQuery,
        is_kept: &'a IsKept<'a>,
    ) -> BoxFuture<'a, Result<Vec<Reread>, StoreError>> {
        Box::pin(async move { self.store.list_changed(&self.narrow(query)?, is_kept).await })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        match self.narrow(&query) {
            Ok(query) => self.store.watch(query),
            // A watch never ends.
            Err(error) => stream::iter([Err(error)]).chain(stream::pending()).boxed(),
        }
    }
}

impl<S: Store> Write for OneNamespace<S> {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            self.check(obj.key())?;
            self.store.create(obj, options).await
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.store.patch(key, patch, options).await
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.store.delete(key, options).await
        })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.store.post(key, subresource, body).await
        })
    }
}
