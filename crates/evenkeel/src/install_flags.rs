//! The flags of `evenkeel install` and `evenkeel uninstall`.

use std::path::PathBuf;

use clap::Args;

use crate::manage::ManageArg;

/// Where the controllers and their Leases are, unless another namespace is named.
pub(crate) const NAMESPACE: &str = "evenkeel";
/// Replicas beyond which more only wait.
const REPLICAS_MAX: i64 = 9;

/// Which installation it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArgs {
    /// Namespace of the controllers, which must exist; default: the one that is watched, or
    /// evenkeel
    #[arg(short, long, value_name = "NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
    /// Only these groups of controllers, and their rights: an installation of its own, whose
    /// objects are called evenkeel-GROUPS
    #[arg(long, value_delimiter = ',', value_name = "GROUPS", value_parser = group_names())]
    pub(crate) only: Vec<String>,
    /// Look after this namespace alone, with rights in it alone
    #[arg(long, value_name = "NAMESPACE", value_parser = namespace)]
    pub(crate) watch_namespace: Option<String>,
}

/// `evenkeel install`
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Image with this program as its entry point
    #[arg(long, value_parser = image)]
    pub(crate) image: String,
    /// Prometheus that has the gateway's or mesh's metrics, as pods reach it
    #[arg(long, value_name = "URL")]
    pub(crate) prometheus: String,
    /// Which Canaries and SLOs are acted on, as of `evenkeel run`; the others are only observed
    #[arg(long, value_enum, default_value_t = ManageArg::Auto, value_name = "WHICH")]
    pub(crate) manage: ManageArg,
    /// Processes, of which one leads each group
    #[arg(
        long,
        default_value_t = 2,
        value_name = "N",
        value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX)
    )]
    pub(crate) replicas: u8,
    /// Size of the volume for the record of each process; it cannot be changed later
    #[arg(long, default_value = "2Gi", value_name = "SIZE", value_parser = size)]
    pub(crate) storage: String,
    /// `StorageClass` of these volumes; default: that of the cluster
    #[arg(long, value_name = "NAME", value_parser = class)]
    pub(crate) storage_class: Option<String>,
    /// Secret in the namespace of the controllers, for one record of all replicas in PostgreSQL
    /// instead of one on the volume of each: `url` as of `run --record`, and the private key
    /// `audit.key`
    #[arg(
        long,
        value_name = "NAME",
        value_parser = class,
        conflicts_with_all = ["storage", "storage_class"]
    )]
    pub(crate) record_secret: Option<String>,
    /// Also a `ServiceMonitor`, for the Prometheus operator
    #[arg(long)]
    pub(crate) service_monitor: bool,
    /// Also the definitions of evenkeel's own kinds, as `evenkeel crds` prints them
    #[arg(long)]
    pub(crate) crds: bool,
}

/// `evenkeel uninstall`
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The cluster; default: $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also the volumes with the record and, when nothing uses them, the definitions of evenkeel's
    /// own kinds
    #[arg(long)]
    pub(crate) purge: bool,
    /// Also in the middle of a release, whose traffic then stays as it is
    #[arg(long)]
    pub(crate) force: bool,
}

/// The groups of controllers that can run as a process of their own.
pub(crate) fn group_names() -> clap::builder::PossibleValuesParser {
    let value = |domain: evenkeel_assembly::Domain| {
        clap::builder::PossibleValue::new(domain.name).help(domain.about)
    };
    clap::builder::PossibleValuesParser::new(evenkeel_assembly::domains().into_iter().map(value))
}

/// The name of a namespace, as Kubernetes allows it.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err("must be lower case letters, digits and '-', at most 63, with a letter or digit at both \
         ends"
        .to_owned())
}

fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| is_inner(*byte) && *byte != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| is_inner(*byte))
        && is_edge(bytes.first())
        && is_edge(bytes.last())
}

/// The name of a `StorageClass` or Secret: labels with dots between them.
fn class(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err("must be the name of an object: lower case letters, digits, '-' and '.'".to_owned())
}

/// A whole number of bytes, as Kubernetes writes it.
fn size(text: &str) -> Result<String, String> {
    let digits = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let has_digits = digits.len() < text.len() && !text.starts_with('0');
    if has_digits && ["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&digits) {
        return Ok(text.to_owned());
    }
    Err("must be a size, such as 2Gi".to_owned())
}

/// A reference to an image: what may stand in one, so that it cannot end the text it stands in.
pub(crate) fn image(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    if !text.is_empty() && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("must be an image, such as registry.example.com/evenkeel:1.0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_can_end_the_text_it_stands_in() {
        for bad in ["", "Ops", "a\"", "-a", "a-", "a b", "a\n", &"a".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad}");
            assert!(class(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a\"", "a\n---"] {
            assert!(image(bad).is_err(), "{bad}");
        }
        for bad in ["", "Gi", "0", "-1Gi", "2GB", "2 Gi", "2Gi}", "1.5Gi"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(namespace("evenkeel-2"), Ok("evenkeel-2".to_owned()));
        assert_eq!(class("fast.example.com"), Ok("fast.example.com".to_owned()));
        assert_eq!(size("10Gi"), Ok("10Gi".to_owned()));
        assert!(image("localhost:5000/a/b@sha256:0123").is_ok());
    }
}
