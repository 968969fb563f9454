//! The zero-loss HTTP gateway: a sans-IO engine and a hyper shell.
