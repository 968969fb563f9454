use evenkeel_api::ObjError;

/// A field that cannot be acted on, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct SpecError {
    pub(crate) field: String,
    pub(crate) problem: String,
}

impl SpecError {
    pub(crate) fn new(field: &str, problem: String) -> Self {
        Self { field: field.to_owned(), problem }
    }

    /// Of an object that does not fit its type.
    pub(crate) fn unfit(error: ObjError) -> Self {
        match error {
            ObjError::Decode { problem, .. } => match problem.split_once(": ") {
                Some((field, problem)) if !field.contains(' ') => {
                    Self::new(field, problem.to_owned())
                }
                _ => Self::new("spec", problem),
            },
            other => Self::new("spec", other.to_string()),
        }
    }
}
