//! `evenkeel crds`: the definitions of kinds.

use std::collections::BTreeSet;

use anyhow::Context as _;
use evenkeel_api::{GroupKind, Key, crds, crds_yaml, crds_yaml_where};
use evenkeel_control::Read as _;
use evenkeel_live::connect;
use serde_json::Value;

use crate::{cli::CrdsArgs, io};

/// Above all of them.
const REPLACES: &str = "\
# Applied, these replace the definitions of the same names, those of Flagger, Sloth and the Gateway
# API too, which may be newer than these. `evenkeel crds --all --missing` prints only what a cluster
# does not have.
";

pub(crate) fn run(args: &CrdsArgs) -> anyhow::Result<()> {
    if args.missing {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let text = runtime.block_on(missing(args))?;
        if text.is_empty() {
            io::complain("the cluster has all of them");
        }
        io::print(&text);
    } else {
        let remark = if args.all { REPLACES } else { "" };
        io::print(&format!("{remark}{}", crds_yaml(args.all)));
    }
    Ok(())
}

async fn missing(args: &CrdsArgs) -> anyhow::Result<String> {
    let store = connect(args.kubeconfig.as_deref())
        .await
        .context("no cluster to compare with: name its kubeconfig with --kubeconfig")?;
    let mut there = BTreeSet::new();
    for crd in crds() {
        let name = crd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if store.get(&definition(name)).await?.is_some() {
            there.insert(name.to_owned());
        }
    }
    Ok(crds_yaml_where(args.all, |name| !there.contains(name)))
}

/// The `CustomResourceDefinition` with this name.
pub(crate) fn definition(name: &str) -> Key {
    Key::new(GroupKind::new("apiextensions.k8s.io", "CustomResourceDefinition"), "", name)
}
