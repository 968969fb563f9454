//! Repository chores: tidy, the dependency fence, benches.
fn main() {}
