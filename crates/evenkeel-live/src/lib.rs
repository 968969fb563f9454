//! The Store port over kube-rs: any real Kubernetes.
