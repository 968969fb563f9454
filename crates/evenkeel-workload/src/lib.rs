//! The demo workload: a pure respond function, and the process that serves it.
