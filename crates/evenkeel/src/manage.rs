//! The flag `--manage` of `evenkeel run` and `evenkeel install`.

use clap::ValueEnum;
use evenkeel_live::Manage;

/// Which Canaries and SLOs are acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ManageArg {
    /// All of them.
    All,
    /// Those with the annotation evenkeel.dev/managed: "true"; the others are observed.
    Annotated,
    /// As annotated where Flagger's or Sloth's definition is installed or it runs; else all.
    Auto,
}

impl From<ManageArg> for Manage {
    fn from(arg: ManageArg) -> Self {
        match arg {
            ManageArg::All => Self::All,
            ManageArg::Annotated => Self::Annotated,
            ManageArg::Auto => Self::Auto,
        }
    }
}
