//! An embedded Kubernetes API server over an in-memory store.
