//! The node agent: pods as processes, probes, restarts, logs.
