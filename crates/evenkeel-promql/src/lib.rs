//! PromQL: parser, evaluation engine, in-memory series, rule evaluation. Pure.
