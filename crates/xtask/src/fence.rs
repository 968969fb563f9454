//! The direction of dependencies between our crates: only downwards, never sideways.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    /// Bottom to top, as `ARCHITECTURE.md` draws it. A crate may depend only on rows above its
    /// own in this list.
    const LAYERS: [&[&str]; 6] = [
        &["base", "yaml", "network"],
        &["api", "promql"],
        &["control", "openapi"],
        &["builtin", "gateway", "telemetry", "slo", "guard", "delivery"],
        &["cluster", "node", "live", "workload", "assembly"],
        &["sim"],
    ];

    /// Every edge between our crates outside `[dev-dependencies]`; `evenkeel-` is left out.
    fn edges(crates: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(crates).expect("crates folder") {
            let manifest = entry.expect("entry").path().join("Cargo.toml");
            let text = fs::read_to_string(&manifest).unwrap_or_default();
            found.extend(edges_of(&text));
        }
        found
    }

    fn edges_of(manifest: &str) -> Vec<(String, String)> {
        let normal = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        let own = |line: &str| {
            let key = line.split(['=', '.', ' ']).next()?;
            key.strip_prefix("evenkeel-").map(str::to_owned)
        };
        let name = manifest.lines().find_map(|l| l.strip_prefix("name = \"evenkeel-"));
        let Some(from) = name.map(|name| name.trim_end_matches('"').to_owned()) else {
            return Vec::new();
        };
        normal.lines().filter_map(own).map(|to| (from.clone(), to)).collect()
    }

    fn wrong(edges: Vec<(String, String)>) -> Vec<(String, String)> {
        let rows = LAYERS.iter().enumerate();
        let row: BTreeMap<_, _> =
            rows.flat_map(|(row, names)| names.iter().map(move |name| (*name, row))).collect();
        let goes_up = |(from, to): &(String, String)| match (row.get(&**from), row.get(&**to)) {
            (Some(from), Some(to)) => from <= to,
            // A crate that is in no row has no place yet: give it one.
            _ => true,
        };
        edges.into_iter().filter(goes_up).collect()
    }

    #[test]
    fn dependencies_point_down() {
        let all = edges(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")));
        assert!(all.len() > 10, "the manifests were not found: {all:?}");
        let bad = wrong(all);
        assert!(bad.is_empty(), "edges that point up or sideways: {bad:?}");
    }

    #[test]
    fn a_sideways_import_is_found() {
        let manifest =
            "name = \"evenkeel-slo\"\n[dependencies]\nevenkeel-delivery.workspace = true";
        assert_eq!(wrong(edges_of(manifest)).len(), 1);
        let fine = "name = \"evenkeel-slo\"\n[dependencies]\nevenkeel-control.workspace = true";
        assert!(wrong(edges_of(fine)).is_empty());
        let unknown = "name = \"evenkeel-new\"\n[dependencies]\nevenkeel-base.workspace = true";
        assert_eq!(wrong(edges_of(unknown)).len(), 1);
    }
}
