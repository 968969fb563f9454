//! Volumes as tables: a pod's volumes and what is there on the left, files on the right.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use evenkeel_api::{Key, Obj, local_volumes};
use insta::assert_snapshot;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PersistentVolume, Pod};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::*;

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn pod(volumes: &str) -> Pod {
    let containers = json!([{"name": "app", "resources": {
        "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]);
    Pod::deserialize(&json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
            "labels": {"app": "web", "tier": "front"}, "annotations": {"note": "say \"hi\"\n"}},
        "spec": {"containers": containers, "volumes": yaml(volumes)}}))
    .unwrap()
}

/// `ConfigMap` conf, Secret cert, and a claim with its volume.
fn sources(more: &[Value]) -> Sources {
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "conf", "namespace": "shop"},
            "data": {"a.ini": "x=1", "b.ini": "y"}, "binaryData": {"raw": "AAEC"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "immutable": true,
            "metadata": {"name": "cert", "namespace": "shop"},
            "data": {"tls.key": "a2V5", "tls.crt": "Y3J0"}}),
    ];
    all.extend(more.iter().cloned());
    let objects = all.into_iter().map(|body| {
        let object = Obj::from_json(body).unwrap();
        (object.key().clone(), std::sync::Arc::new(object))
    });
    let allocatable = BTreeMap::from([
        ("memory".to_owned(), "15Gi".to_owned()),
        ("cpu".to_owned(), "3920m".to_owned()),
    ]);
    Sources { objects: objects.collect(), tokens: BTreeMap::new(), allocatable }
}

fn claim(phase: &str, volume: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "shop", "uid": "c1"},
        "spec": {"volumeName": volume}, "status": {"phase": phase}})
}

fn volume(source: &str) -> Value {
    let mut spec = yaml(source);
    spec["claimRef"] = json!({"name": "data", "namespace": "shop", "uid": "c1"});
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": spec})
}

/// Files as `PATH MODE CONTENT`, or what else the one volume `v` is, or the problem.
fn made(source: &str, more: &[Value]) -> String {
    let pod = pod(&format!("[{{name: v, {source}}}]"));
    match wanted(&pod, &sources(more)) {
        Err(problem) => problem,
        Ok(mut all) => match all.remove("v").unwrap() {
            Wanted::Files { kind, payload, changes } => {
                let mut lines = vec![format!("{kind} changes={changes}")];
                for (path, file) in payload {
                    let text = String::from_utf8_lossy(&file.data);
                    lines.push(format!("{path} {:o} {:?}", file.mode, text));
                }
                lines.join("\n")
            }
            other => format!("{other:?}"),
        },
    }
}

#[test]
fn config_maps_and_secrets_are_files() {
    assert_snapshot!(made("configMap: {name: conf}", &[]), @r#"
    configmap changes=true
    a.ini 644 "x=1"
    b.ini 644 "y"
    raw 644 "\0\u{1}\u{2}"
    "#);
    assert_snapshot!(made("configMap: {name: conf, defaultMode: 256, items: \
        [{key: a.ini, path: etc/app.ini}, {key: raw, path: ./raw, mode: 511}]}", &[]), @r#"
    configmap changes=true
    etc/app.ini 400 "x=1"
    raw 777 "\0\u{1}\u{2}"
    "#);
    assert_snapshot!(made("secret: {secretName: cert, defaultMode: 384}", &[]), @r#"
    secret changes=false
    tls.crt 600 "crt"
    tls.key 600 "key"
    "#);
    assert_snapshot!(made("configMap: {name: none, optional: true}", &[]), @"configmap changes=true");
}

#[test]
fn what_is_missing_is_said_as_the_kubelet_does() {
    let made = |source| made(source, &[]);
    assert_snapshot!(made("configMap: {name: none}"), @r#"MountVolume.SetUp failed for volume "v" : configmap "none" not found"#);
    assert_snapshot!(made("secret: {secretName: none}"), @r#"MountVolume.SetUp failed for volume "v" : secret "none" not found"#);
    assert_snapshot!(made("configMap: {name: conf, items: [{key: z, path: z}]}"), @r#"MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: z"#);
    assert_snapshot!(made("secret: {secretName: cert, items: [{key: z, path: z}]}"), @r#"MountVolume.SetUp failed for volume "v" : references non-existent secret key: z"#);
    assert_snapshot!(made("configMap: {name: conf, optional: true, items: [{key: z, path: z}]}"), @"configmap changes=true");
    assert_snapshot!(made("projected: {sources: [{secret: {name: none}}, {configMap: {name: gone}}]}"), @r#"MountVolume.SetUp failed for volume "v" : [secret "none" not found, configmap "gone" not found]"#);
    assert_snapshot!(made("nfs: {server: s, path: /p}"), @r#"MountVolume.SetUp failed for volume "v" : this kind of volume is not supported here (nfs): use emptyDir, configMap, secret, projected, downwardAPI, persistentVolumeClaim or hostPath"#);
}

#[test]
fn no_path_leads_out_of_the_volume() {
    let at = |path: &str| {
        let text = made(
            &format!("configMap: {{name: conf, items: [{{key: a.ini, path: {path:?}}}]}}"),
            &[],
        );
        text.replace("MountVolume.SetUp failed for volume \"v\" : ", "")
    };
    assert_snapshot!(at("/etc/passwd"), @"invalid path: must be relative path: /etc/passwd");
    assert_snapshot!(at("a/../../b"), @"invalid path: must not contain '..': a/../../b");
    assert_snapshot!(at(".."), @"invalid path: must not contain '..': ..");
    assert_snapshot!(at("..data"), @"invalid path: must not start with '..': ..data");
    assert_snapshot!(at(""), @r#"invalid path: must not be empty: """#);
    assert_snapshot!(at(&"n".repeat(256)), @"invalid path: filenames must be less than or equal to 255 characters");
    assert_snapshot!(made("configMap: {name: conf, items: [{key: a.ini, path: x}, \
        {key: b.ini, path: x/y}]}", &[]), @r#"MountVolume.SetUp failed for volume "v" : invalid path: x is a file and the folder of x/y"#);
}

#[test]
fn a_pods_own_fields_are_files() {
    let items = "{path: name, fieldRef: {fieldPath: metadata.name}}, \
        {path: labels, fieldRef: {fieldPath: metadata.labels}}, \
        {path: notes, mode: 256, fieldRef: {fieldPath: metadata.annotations}}, \
        {path: tier, fieldRef: {fieldPath: \"metadata.labels['tier']\"}}, \
        {path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu}}, \
        {path: milli, resourceFieldRef: {containerName: app, resource: limits.cpu, divisor: 1m}}, \
        {path: memory, resourceFieldRef: {containerName: app, resource: limits.memory, divisor: 1Mi}}, \
        {path: asked, resourceFieldRef: {containerName: app, resource: requests.memory}}, \
        {path: disk, resourceFieldRef: {containerName: app, resource: limits.ephemeral-storage}}";
    assert_snapshot!(made(&format!("downwardAPI: {{items: [{items}]}}"), &[]), @r#"
    downward-api changes=true
    asked 644 "0"
    cpu 644 "2"
    disk 644 "0"
    labels 644 "app=\"web\"\ntier=\"front\""
    memory 644 "64"
    milli 644 "1500"
    name 644 "web"
    notes 400 "note=\"say \\\"hi\\\"\\n\""
    tier 644 "front"
    "#);
    assert_snapshot!(made("downwardAPI: {items: [{path: x, resourceFieldRef: \
        {containerName: none, resource: limits.cpu}}]}", &[]), @r#"MountVolume.SetUp failed for volume "v" : container none not found"#);
}

#[test]
fn the_usual_access_volume_has_all_its_sources() {
    let source = "projected: {defaultMode: 420, sources: [\
        {serviceAccountToken: {path: token, expirationSeconds: 3607}}, \
        {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}, \
        {downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}}]}";
    let root = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-root-ca.crt", "namespace": "shop"}, "data": {"ca.crt": "CA"}});
    let pod = pod(&format!("[{{name: v, {source}}}]"));
    let mut sources = sources(&[root]);
    let asked = tokens_of(&pod);
    assert_eq!((asked[0].service_account.as_str(), asked[0].seconds), ("default", 3607));
    sources.tokens.insert(asked[0].clone(), Ok("t0ken".to_owned()));
    let all = wanted(&pod, &sources).unwrap();
    assert_snapshot!(format!("{:?}", all["v"]), @r#"Files { kind: "projected", payload: {"ca.crt": 644 2 bytes, "namespace": 644 4 bytes, "token": 644 5 bytes}, changes: true }"#);
    sources.tokens.insert(asked[0].clone(), Err("no TokenRequest".to_owned()));
    assert_snapshot!(wanted(&pod, &sources).unwrap_err(), @r#"MountVolume.SetUp failed for volume "v" : failed to fetch token: no TokenRequest"#);
}

#[test]
fn claims_are_folders_once_they_are_bound() {
    let source = "persistentVolumeClaim: {claimName: data}";
    let local = "csi: {driver: evenkeel.dev/local-folder, volumeHandle: shop_data_c1}";
    let bound = [claim("Bound", "pv"), volume(local)];
    assert_snapshot!(made(source, &bound), @r#"Claim { folder: "shop_data_c1", is_read_only: false }"#);
    assert_snapshot!(made("persistentVolumeClaim: {claimName: data, readOnly: true}", &bound), @r#"Claim { folder: "shop_data_c1", is_read_only: true }"#);
    let problem = |more: &[Value]| {
        let text = made(source, more);
        text.split_once("]: ").map_or(text.clone(), |(_, problem)| problem.to_owned())
    };
    assert_snapshot!(made(source, &[]), @r#"Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC shop/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found"#);
    assert_snapshot!(problem(&[claim("Pending", "")]), @"error processing PVC shop/data: PVC is not bound");
    let escape = "csi: {driver: evenkeel.dev/local-folder, volumeHandle: ../../etc}";
    assert_snapshot!(problem(&[claim("Bound", "pv"), volume(escape)]), @r#"error processing PVC shop/data: PV pv is no folder of this machine: use StorageClass "standard", or a PV with hostPath or local"#);
    assert_snapshot!(made(source, &[claim("Bound", "pv"), volume("hostPath: {path: /srv/db}")]), @r#"HostPath(HostPath { path: "/srv/db", kind: "", is_read_only: false })"#);
}

#[test]
fn a_folder_goes_only_when_nothing_else_holds_its_volume() {
    let protection = "kubernetes.io/pv-protection";
    let of = |finalizers: &[&str], policy: &str| {
        let mut body = volume("csi: {driver: evenkeel.dev/local-folder, volumeHandle: shop_data}");
        body["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        body["metadata"]["finalizers"] = json!(finalizers);
        body["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
        body["spec"]["nodeAffinity"] = yaml(
            "{required: {nodeSelectorTerms: [{matchExpressions: [\
            {key: kubernetes.io/hostname, operator: In, values: [n1]}]}]}}",
        );
        release(&PersistentVolume::deserialize(&body).unwrap()).map(|release| release.folder)
    };
    let own = local_volumes::FINALIZER;
    assert_eq!(of(&[own], "Delete"), Some(Some("shop_data".to_owned())));
    assert_eq!(of(&[own], "Retain"), Some(None));
    for held in [&[protection, own][..], &[own, protection], &[own, "other"], &[protection], &[]] {
        assert_eq!(of(held, "Delete"), None, "{held:?}");
    }
}

#[test]
fn empty_dirs_have_a_medium_and_a_limit() {
    assert_snapshot!(made("emptyDir: {}", &[]), @"EmptyDir { is_memory: false, limit: None }");
    assert_snapshot!(made("emptyDir: {medium: Memory, sizeLimit: 1Ki}", &[]), @r#"EmptyDir { is_memory: true, limit: Some(Limit { bytes: 1024, text: "1Ki" }) }"#);
    assert_snapshot!(made("emptyDir: {medium: HugePages}", &[]), @r#"MountVolume.SetUp failed for volume "v" : emptyDir medium "HugePages" is not supported"#);
    assert_snapshot!(made("emptyDir: {sizeLimit: '0'}", &[]), @"EmptyDir { is_memory: false, limit: None }");
}

#[test]
fn all_that_volumes_refer_to_is_read() {
    let pod = pod("[{name: a, configMap: {name: c}}, {name: b, secret: {secretName: s}}, \
        {name: p, projected: {sources: [{configMap: {name: c}}, {secret: {name: t}}]}}, \
        {name: d, persistentVolumeClaim: {claimName: data}}, \
        {name: e, ephemeral: {volumeClaimTemplate: {spec: {}}}}]");
    let keys: Vec<String> = references(&pod).iter().map(Key::to_string).collect();
    assert_eq!(
        keys.join(" "),
        "ConfigMap/shop/c PersistentVolumeClaim/shop/data \
        PersistentVolumeClaim/shop/web-e Secret/shop/s Secret/shop/t"
    );
}

struct Place(PathBuf);

const POD: PodOf<'_> = PodOf { uid: "u1", group: None, now: Timestamp::UNIX_EPOCH };

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("evenkeel-volumes-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("shared/inner")).unwrap();
        Self(root.canonicalize().unwrap())
    }

    fn disk(&self) -> Disk {
        Disk::new(VolumeSettings {
            root: self.0.join("node"),
            claims: self.0.join("claims"),
            host_paths: vec![self.0.join("shared")],
        })
    }

    fn set_up(&self, volumes: &str, more: &[Value]) -> Result<BTreeMap<String, Wanted>, String> {
        let all = wanted(&pod(volumes), &sources(more))?;
        self.disk().set_up(POD, &all)?;
        Ok(all)
    }

    /// `TARGET SOURCE [ro]` per mount, the source relative to this place.
    fn mounts(&self, all: &BTreeMap<String, Wanted>, mounts: &str) -> String {
        let container = json!({"name": "app", "volumeMounts": yaml(mounts)});
        let container = Container::deserialize(&container).unwrap();
        let env = BTreeMap::from([("POD_NAME".to_owned(), "web".to_owned())]);
        match self.disk().mounts("u1", &container, all, &env) {
            Err(problem) => problem,
            Ok(mounts) => {
                let line = |mount: &crate::runtime::Mount| {
                    let source = mount.source.strip_prefix(&self.0).unwrap();
                    let only = if mount.read_only { " ro" } else { "" };
                    format!("{} {}{only}", mount.target.display(), source.display())
                };
                mounts.iter().map(line).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_container_sees_its_mounts_and_outer_ones_come_first() {
    let place = Place::new("mounts");
    let all = place
        .set_up("[{name: conf, configMap: {name: conf}}, {name: tmp, emptyDir: {}}]", &[])
        .unwrap();
    assert_snapshot!(place.mounts(&all, "[{name: tmp, mountPath: /app/./cache/}, \
        {name: conf, mountPath: /app}, {name: tmp, mountPath: data, readOnly: true, subPath: a/b}, \
        {name: conf, mountPath: /app/cache/a.ini, subPath: a.ini}, \
        {name: tmp, mountPath: /own, subPathExpr: $(POD_NAME)/x}]"), @r"
    /app node/pods/u1/.volumes/kubernetes.io~configmap/conf ro
    /data node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp/a/b ro
    /own node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp/web/x
    /app/cache node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp
    /app/cache/a.ini node/pods/u1/.volumes/kubernetes.io~configmap/conf/..1970_01_01_00_00_00.000000000/a.ini ro
    ");
    let problem =
        |mount: &str| place.mounts(&all, &format!("[{{name: tmp, mountPath: /m, {mount}}}]"));
    assert_snapshot!(problem("subPath: ../../x"), @"unable to provision SubPath `../../x`: must not contain '..'");
    assert_snapshot!(problem("subPath: /etc"), @"error SubPath `/etc` must not be an absolute path");
    assert_snapshot!(problem("subPathExpr: $(NOBODY)"), @r#"missing value for "NOBODY""#);
    assert_snapshot!(problem("mountPropagation: Bidirectional"), @r#"volumeMount "tmp": mountPropagation Bidirectional is not supported, what a container mounts stays its own"#);
}

#[test]
fn no_symlink_leads_a_sub_path_out_of_its_volume() {
    use std::os::unix::fs::symlink;
    let place = Place::new("escape");
    let all = place.set_up("[{name: tmp, emptyDir: {}}]", &[]).unwrap();
    let dir = place.0.join("node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp");
    // What a container may have put there.
    symlink("/etc", dir.join("abs")).unwrap();
    symlink("../../../..", dir.join("up")).unwrap();
    fs::create_dir(dir.join("real")).unwrap();
    symlink("real", dir.join("inside")).unwrap();
    let at = |path: &str| {
        place.mounts(&all, &format!("[{{name: tmp, mountPath: /m, subPath: {path}}}]"))
    };
    for path in ["abs", "up", "abs/passwd", "up/x", "inside/../up"] {
        let said = at(path);
        assert!(!said.starts_with("/m"), "{path}: {said}");
    }
    assert_snapshot!(at("abs"), @r#"failed to prepare subPath for volumeMount "tmp" of container "app": abs leads out of the volume"#);
    assert_snapshot!(at("inside"), @"/m node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp/real");
    assert_snapshot!(at("inside/new"), @"/m node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp/real/new");
    assert!(!PathBuf::from("/etc/x").exists());
}

#[test]
fn host_paths_lie_below_the_folders_that_were_named() {
    let place = Place::new("host");
    let shared = place.0.join("shared");
    fs::write(shared.join("file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc", shared.join("etc")).unwrap();
    let at = |path: &str, kind: &str| {
        let path = path.replace('@', shared.to_str().unwrap());
        let source = format!("[{{name: h, hostPath: {{path: {path:?}, type: {kind:?}}}}}]");
        let text = match place.set_up(&source, &[]) {
            Ok(all) => place.mounts(&all, "[{name: h, mountPath: /m}]"),
            Err(problem) => problem,
        };
        let text = text.replace("MountVolume.SetUp failed for volume \"h\" : ", "");
        text.replace(shared.to_str().unwrap(), "@")
    };
    assert_snapshot!(at("@/inner", "Directory"), @"/m shared/inner");
    assert_snapshot!(at("@", ""), @"/m shared");
    assert_snapshot!(at("@/file", "File"), @"/m shared/file");
    assert_snapshot!(at("@/file", "Directory"), @"hostPath type check failed: @/file is not a directory");
    assert_snapshot!(at("@/made/too", "DirectoryOrCreate"), @"/m shared/made/too");
    assert_snapshot!(at("@/log", "FileOrCreate"), @"/m shared/log");
    assert_snapshot!(at("@/none", "Directory"), @"hostPath type check failed: @/none is not a directory");
    assert_snapshot!(at("@/none", ""), @r#"hostPath "@/none" does not exist"#);
    assert_snapshot!(at("/etc", "Directory"), @r#"hostPath "/etc" is not below a folder that may be used: start `evenkeel up` with --host-path DIR"#);
    assert_snapshot!(at("@/../node", "DirectoryOrCreate"), @r#"hostPath "@/../node": ../node leads out of the volume"#);
    assert_snapshot!(at("@/etc", ""), @r#"hostPath "@/etc": etc leads out of the volume"#);
}

#[test]
fn an_empty_dir_that_is_too_full_says_so() {
    let place = Place::new("full");
    let volumes =
        "[{name: tmp, emptyDir: {sizeLimit: 8Ki}}, {name: m, emptyDir: {medium: Memory}}]";
    let all = wanted(&pod(volumes), &sources(&[])).unwrap();
    let disk = place.disk();
    let look = || disk.set_up(POD, &all).unwrap();
    let found = look();
    assert_eq!((found.changes, found.exceeded), (true, None));
    assert!(found.caveats[0].contains("medium Memory"), "{:?}", found.caveats);
    let dir = place.0.join("node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp");
    fs::write(dir.join("big"), vec![1; 20_000]).unwrap();
    let said = "Usage of EmptyDir volume \"tmp\" exceeds the limit \"8Ki\". ";
    assert_eq!(look().exceeded.as_deref(), Some(said));
}

#[test]
fn what_is_removed_is_removed_whole_and_nothing_else() {
    let place = Place::new("removal");
    let local = "csi: {driver: evenkeel.dev/local-folder, volumeHandle: shop_data_c1}";
    let volumes =
        "[{name: tmp, emptyDir: {}}, {name: d, persistentVolumeClaim: {claimName: data}}]";
    place.set_up(volumes, &[claim("Bound", "pv"), volume(local)]).unwrap();
    let (disk, keep) = (place.disk(), place.0.join("shared/keep"));
    fs::write(&keep, "").unwrap();
    let tmp = place.0.join("node/pods/u1/.volumes/kubernetes.io~empty-dir/tmp");
    let data = place.0.join("claims/shop_data_c1");
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&tmp), mode(&data)), (0o777, 0o777));
    assert_eq!(mode(&place.0.join("node/pods/u1")), 0o700);
    for dir in [&tmp, &data] {
        std::os::unix::fs::symlink(place.0.join("shared"), dir.join("link")).unwrap();
        fs::create_dir(dir.join("locked")).unwrap();
        fs::write(dir.join("locked/x"), "").unwrap();
        fs::set_permissions(dir.join("locked"), fs::Permissions::from_mode(0o0)).unwrap();
    }
    assert_eq!(disk.pods().into_iter().collect::<Vec<_>>(), ["u1"]);
    disk.tear_down("u1").unwrap();
    assert!(!tmp.exists() && data.exists() && keep.exists());
    disk.remove_claim("shop_data_c1").unwrap();
    assert!(!data.exists() && keep.exists());
    // A folder that somebody has replaced by a link to another place.
    std::os::unix::fs::symlink(place.0.join("shared"), &data).unwrap();
    disk.remove_claim("shop_data_c1").unwrap();
    assert!(fs::symlink_metadata(&data).is_err() && keep.exists());
    for name in ["..", "../shared", "", "/", "a/b"] {
        assert!(disk.remove_claim(name).is_err(), "{name:?}");
    }
    assert!(keep.exists());
}
