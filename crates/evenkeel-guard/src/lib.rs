//! The door's keeper: the append-only audit record and its verification.
