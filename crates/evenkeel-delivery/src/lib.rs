//! Canary releases as Flagger defines them, decided by a pure function.
