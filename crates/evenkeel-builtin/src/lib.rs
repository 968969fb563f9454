//! What kube-controller-manager and kube-scheduler do, as decide functions.
