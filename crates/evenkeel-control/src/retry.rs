/// What a caller should do after a failure. There is no "never": a policy, a quota or a right can
/// change, and what was refused must then succeed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try the same again after a pause.
    Later,
    /// Look again: something has changed.
    Replan,
    /// The server refuses it: look again, more and more slowly.
    Slowly,
    /// Carry on with the rest of the plan: the record says what failed, and the next observation
    /// sees it.
    Proceed,
}
