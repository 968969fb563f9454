//! Kubernetes and foreign kinds as plain data, with the rules that belong to the data.
