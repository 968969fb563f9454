//! The flags of the record.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use evenkeel_guard::Keep;

use crate::cli::Output;

/// How the record of actions is kept.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RecordArgs {
    /// Private key that signs the record, in PEM; default: keys/audit.key in the data folder, made
    /// at the first start
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_key: Option<PathBuf>,
    /// How long the record is kept: an age (90d), a size (2Gi), or both with a comma; what is
    /// beyond either is dropped [default: 1Gi]
    #[arg(long, value_name = "AGE|SIZE")]
    pub(crate) audit_keep: Option<Keep>,
    /// PostgreSQL database that holds the record, as one chain of all processes that name it:
    /// `postgres://USER@HOST/DATABASE`; the password may be in `PGPASSWORD`, and all of it in
    /// `EVENKEEL_RECORD`, where no list of processes shows it. Needs --audit-key, the same for all of
    /// them [default: files in the data folder]
    #[arg(long, value_name = "URL", requires = "audit_key", env = "EVENKEEL_RECORD")]
    #[arg(hide_env = true)]
    pub(crate) record: Option<String>,
}

/// Which record a tool reads.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SourceArgs {
    /// Folder with the audit record [default: evenkeel in `$XDG_STATE_HOME` or ~/.local/state]
    #[arg(long, value_name = "DIR", conflicts_with = "record")]
    pub(crate) data_dir: Option<PathBuf>,
    /// PostgreSQL database with the audit record, as `evenkeel run --record` was given it
    #[arg(long, value_name = "URL")]
    pub(crate) record: Option<String>,
}

/// `evenkeel audit`
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that the record is whole and unaltered; exit 1 when it is not, 2 when it could not be
    /// checked
    Verify(VerifyArgs),
    /// List what was done, why, and what became of it; exit codes as of `verify`
    List(ListArgs),
    /// Show one action with all that is known of it; exit codes as of `verify`
    Show(ShowArgs),
    /// Print the public key that `verify` needs
    Key(KeyArgs),
}

/// `evenkeel audit verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The public key that must have signed it: a file or pipe, or its text as `audit key` prints
    /// it. Without it, only accidental damage and partial edits are found
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// A copy of DATA-DIR/audit/HEAD that was kept elsewhere: the record must still contain what
    /// it names
    #[arg(long, value_name = "FILE")]
    pub(crate) head: Option<PathBuf>,
}

/// `evenkeel audit list`
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Only actions for this object, or on it: canary/api in any namespace, or canary/shop/api
    #[arg(long, value_name = "KIND/[NS/]NAME")]
    pub(crate) object: Option<String>,
    /// Only actions newer than this, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// Keep printing new actions
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// `evenkeel audit show`
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Number of the action, as `audit list` prints it
    pub(crate) seq: u64,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// `evenkeel audit key`
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Where the record lies [default: evenkeel in `$XDG_STATE_HOME` or ~/.local/state]
    #[arg(long, value_name = "DIR", conflicts_with = "audit_key")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The private key, when it is not in the data folder
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_key: Option<PathBuf>,
    /// Make a new private key in this file first
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "audit_key"])]
    pub(crate) create: Option<PathBuf>,
    /// Print it in PEM, for other tools
    #[arg(long)]
    pub(crate) pem: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    evenkeel_base::parse_duration(text).map_err(|error| error.to_string())
}
