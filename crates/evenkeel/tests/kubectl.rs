//! End to end: the real binary, real processes, real kubectl; output is compared, not only exit
//! codes. One cluster serves all steps, because a machine has addresses for one at a time.
//!
//! Takes about a minute: every step starts a kubectl, and pods really start and stop.
//! Needs kubectl (Debian package kubernetes-client) on PATH or in KUBECTL.

#[path = "kubectl/examples.rs"]
mod examples;
#[path = "kubectl/own_network.rs"]
mod own_network;
#[path = "kubectl/secrets.rs"]
mod secrets;
#[path = "kubectl/world.rs"]
mod world;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use anyhow::ensure;
use world::{Cluster, Folder, soon};

const CLUSTER: &str = include_str!("../../evenkeel-sim/src/demo/cluster.yaml");
const CANARY: &str = include_str!("../../evenkeel-sim/src/demo/canary.yaml");
const API_SERVICE: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: api-service}
spec:
  replicas: 3
  selector: {matchLabels: {app: api-service}}
  template:
    metadata:
      labels: {app: api-service}
      annotations: {evenkeel.dev/termination-gate: gateway}
    spec:
      containers:
      - name: api
        image: evenkeel/demo:v1
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 5}
";
const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: evenkeel/demo:v1
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
";
const IMAGES: &str = r#"
images:
  example/greeter:1:
    program: /bin/sh
    args: [-c, "echo hello from $POD_NAME on $NODE_NAME; exec sleep 600"]
"#;
const GREETER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: greeter, labels: {app: greeter}}
spec:
  containers: [{name: greeter, image: 'example/greeter:1'}]
";

#[test]
fn kubectl_works_against_evenkeel_up() -> anyhow::Result<()> {
    let kubectl = world::kubectl_program()?;
    let folder = Folder::new("kubectl")?;
    for (name, text) in [
        ("cluster.yaml", CLUSTER),
        ("canary.yaml", CANARY),
        ("app.yaml", API_SERVICE),
        ("images.yaml", IMAGES),
        ("unfit.yaml", secrets::UNFIT),
    ] {
        folder.write(&format!("manifests/{name}"), text)?;
    }
    what_cannot_start_says_why(&folder)?;

    let cluster = started(&folder, &kubectl)?;
    cluster.replace_program()?;
    the_folder_is_there(&cluster, &folder)?;
    a_second_cluster_is_refused(&cluster, &folder)?;
    files_are_applied(&cluster, &folder)?;
    changes_are_watched(&cluster)?;
    things_are_described(&cluster)?;
    containers_write_logs(&cluster)?;
    releases_go_forth_and_back(&cluster)?;
    labels_select(&cluster)?;
    manifests_are_checked(&cluster)?;
    pods_that_cannot_run_say_why(&cluster)?;
    secrets::are_kept(&cluster, &folder)?;
    a_target_has_one_canary(&cluster)?;
    deleted_is_gone(&cluster)?;

    cluster.kill()?;
    let cluster = started(&folder, &kubectl)?;
    let left = cluster.stop()?;
    ensure!(left.is_empty(), "left running: {left:#?}");
    secrets::are_in_private_files_alone(&folder)?;
    the_example_serves(&folder, &kubectl)
}

/// What the README begins with on a laptop.
fn the_example_serves(folder: &Folder, kubectl: &str) -> anyhow::Result<()> {
    for name in ["manifests", "data"] {
        std::fs::remove_dir_all(folder.path(name))?;
    }
    folder.write("manifests/cluster.yaml", include_str!("../../../examples/shop/cluster.yaml"))?;
    folder.write("manifests/shop.yaml", include_str!("../../../examples/shop/shop.yaml"))?;
    let cluster = started(folder, kubectl)?;
    let phase = "get canary api -n shop -o jsonpath={.status.phase}";
    soon(|| cluster.says(phase, "Initialized"))?;
    soon(|| {
        let mut client = TcpStream::connect("127.0.0.1:18080")?;
        client.write_all(b"GET / HTTP/1.0\r\nHost: shop.example.com\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        ensure!(answer.contains(" 200 ") && answer.contains("\"version\":\"1\""), "{answer}");
        Ok(())
    })?;
    let said =
        cluster.kubectl("get prometheusservicelevels,errorbudgetpolicies -n shop -o name", "")?;
    ensure!(said.out.lines().count() == 2, "{said:?}");
    let problems = cluster.complaints()?;
    ensure!(!problems.contains("WARN") && !problems.contains("ERROR"), "{problems}");
    let left = cluster.stop()?;
    ensure!(left.is_empty(), "left running: {left:#?}");
    Ok(())
}

fn started(folder: &Folder, kubectl: &str) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(folder, kubectl)?;
    cluster.line("other commands: --data-dir ")?;
    ensure!(cluster.line("console: ")?.starts_with("http://127.0.0.1:"), "no address");
    cluster.line("ready")?;
    Ok(cluster)
}

fn what_cannot_start_says_why(folder: &Folder) -> anyhow::Result<()> {
    folder.write("broken/shop.yaml", "apiVersion: v1\nkind: List\nitems: []\n---\na: [1,\n")?;
    let said = world::refused(folder, "broken", &[])?;
    ensure!(said.code == Some(1) && said.out.is_empty(), "{said:?}");
    let wanted = "evenkeel: shop.yaml, line 5: field a[1]: unclosed bracket '['\n";
    ensure!(said.err == wanted, "{said:?}");

    folder.write("open/vault.yaml", &secrets::UNFIT.replace("==}", "=="))?;
    let said = world::refused(folder, "open", &[])?;
    ensure!(said.code == Some(1) && said.err.contains("vault.yaml, line"), "{said:?}");
    secrets::are_not_in(&said.err)?;

    folder.write("none/README", "nothing")?;
    let said = world::refused(folder, "none", &[])?;
    ensure!(said.code == Some(1) && said.err.contains("no .yaml, .yml or .json file"), "{said:?}");
    let said = world::refused(folder, "nowhere", &[])?;
    let wanted = "does not exist: name the folder with your manifests, or create it";
    ensure!(said.code == Some(1) && said.err.contains(wanted), "{said:?}");

    let bound = TcpListener::bind("127.0.0.1:0")?;
    let port = bound.local_addr()?.port().to_string();
    for flag in ["--api-port", "--console-port"] {
        let said = world::refused(folder, "manifests", &[flag, &port])?;
        ensure!(said.code == Some(1), "{said:?}");
        let named = said.err.contains(&format!("({flag})")) && said.err.contains("ddress");
        ensure!(named && said.err.contains("in use"), "{said:?}");
    }
    Ok(())
}

fn the_folder_is_there(cluster: &Cluster, folder: &Folder) -> anyhow::Result<()> {
    let complaints = cluster.complaints()?;
    let spot = "warning: cluster.yaml, line 33: nodeGroup application-nodes: field spot: ";
    ensure!(complaints.contains(spot), "{complaints}");
    cluster.says(
        "get nodes",
        "NAME                  STATUS   ROLES    AGE   VERSION
         application-nodes-0   Ready    <none>   *     v1.*
         application-nodes-1   Ready    <none>   *     v1.*
         application-nodes-2   Ready    <none>   *     v1.*
         application-nodes-3   Ready    <none>   *     v1.*
         application-nodes-4   Ready    <none>   *     v1.*
         application-nodes-5   Ready    <none>   *     v1.*
         system-nodes-0        Ready    <none>   *     v1.*
         system-nodes-1        Ready    <none>   *     v1.*
         system-nodes-2        Ready    <none>   *     v1.*",
    )?;
    cluster.says(
        "wait --for=condition=Promoted canary/api-service --timeout=30s",
        "canary.flagger.app/api-service condition met",
    )?;
    cluster.says(
        "get canaries",
        "NAME          STATUS        WEIGHT   LASTTRANSITIONTIME
         api-service   Initialized   0        20*Z",
    )?;
    cluster.says(
        "get deployments,services",
        "NAME                                  READY   UP-TO-DATE   AVAILABLE   AGE
         deployment.apps/api-service           0/0     0            0           *
         deployment.apps/api-service-primary   3/3     3            3           *
         NAME                          TYPE        CLUSTER-IP    EXTERNAL-IP   PORT(S)   AGE
         service/api-service           ClusterIP   127.192.*     <none>        80/TCP    *
         service/api-service-canary    ClusterIP   127.192.*     <none>        80/TCP    *
         service/api-service-primary   ClusterIP   127.192.*     <none>        80/TCP    *",
    )?;
    // Before there were nodes no place was looked for.
    let said = cluster.kubectl("get events --field-selector reason=FailedScheduling", "")?;
    let none = "No resources found in default namespace.\n";
    ensure!(said.out.is_empty() && said.err == none, "{said:?}");
    let file = folder.path("manifests/canary.yaml").display().to_string();
    cluster.says(&format!("apply -f {file}"), "canary.flagger.app/api-service unchanged")
}

fn a_second_cluster_is_refused(cluster: &Cluster, folder: &Folder) -> anyhow::Result<()> {
    let said = world::refused_now(folder, "manifests")?;
    let wanted = format!(
        "another embedded cluster runs on this machine (process {}): stop it first",
        cluster.process()
    );
    ensure!(said.code == Some(1) && said.err.contains(&wanted), "{said:?}");
    Ok(())
}

fn files_are_applied(cluster: &Cluster, folder: &Folder) -> anyhow::Result<()> {
    let web = folder.write("web.yaml", WEB)?;
    let apply = format!("apply -f {web}");
    cluster.says(&apply, "deployment.apps/web created")?;
    cluster.says(&apply, "deployment.apps/web unchanged")?;
    folder.write("web.yaml", &WEB.replace("name: web}", "name: web, labels: {team: shop}}"))?;
    cluster.says(&apply, "deployment.apps/web configured")?;
    cluster.says(
        "wait --for=condition=Available deployment/web --timeout=30s",
        "deployment.apps/web condition met",
    )
}

fn changes_are_watched(cluster: &Cluster) -> anyhow::Result<()> {
    let watch = cluster.watch("get deployment web --watch")?;
    watch.sees("web 2/2 2 2 *")?;
    cluster.says("scale deployment web --replicas=3", "deployment.apps/web scaled")?;
    watch.sees("web 2/3 * 2 *")?;
    watch.sees("web 3/3 3 3 *")?;
    cluster.mentions("rollout status deployment/web --timeout=30s", ROLLED_OUT)
}

const ROLLED_OUT: &str = r#"deployment "web" successfully rolled out"#;

fn things_are_described(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.mentions(
        "describe deployment web",
        "Name:                   web
         Namespace:              default
         Labels:                 team=shop
         Selector:               app=web
         Replicas:               3 desired | 3 updated | 3 total | 3 available | 0 unavailable
         StrategyType:           RollingUpdate
         RollingUpdateStrategy:  25% max unavailable, 25% max surge
         Image:         evenkeel/demo:v1
         Type           Status  Reason
         OldReplicaSets:  <none>
         NewReplicaSet:   web-* (3/3 replicas created)
         Normal  ScalingReplicaSet  *  deployment-controller  Scaled up replica set web-* from 0 to 2
         Normal  ScalingReplicaSet  *  deployment-controller  Scaled up replica set web-* from 2 to 3",
    )?;
    // Kubernetes lists them in the order in which they last changed.
    cluster.mentions("describe deployment web", "Available True MinimumReplicasAvailable")?;
    cluster.mentions("describe deployment web", "Progressing True NewReplicaSetAvailable")?;
    cluster.mentions(
        "describe pod -l app=web",
        "Name:         web-*
         Node:         application-nodes-*/127.*
         Labels:       app=web
         Status:       Running
         IP:           127.*
         Controlled By:  ReplicaSet/web-*
         web:
         Image:          evenkeel/demo:v1
         State:          Running
         Ready:          True
         Restart Count:  0
         Readiness:      http-get http://:8080/ready delay=0s timeout=1s period=1s #success=1 #failure=3
         Ready                       True
         QoS Class:                  BestEffort",
    )?;
    // In the order in which they came, although all of it is done within a second.
    soon(|| {
        cluster.mentions(
            "describe pod -l app=web",
            "Normal  Scheduled  *  default-scheduler  Successfully assigned default/web-* to application-nodes-*
             Normal  Pulled     *  kubelet  Container image \"evenkeel/demo:v1\" already present on machine
             Normal  Created    *  kubelet  Created container: web
             Normal  Started    *  kubelet  Started container web",
        )
    })
}

fn containers_write_logs(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.applies("apply -f -", GREETER, "pod/greeter created")?;
    cluster.says(
        "wait --for=condition=Ready pod/greeter --timeout=30s",
        "pod/greeter condition met",
    )?;
    soon(|| cluster.says("logs greeter", "hello from greeter on application-nodes-*"))?;
    soon(|| cluster.mentions("logs -l app=web", "version v1 of pod web-* listens on 127.*:8080"))?;
    // The words around it differ between versions of kubectl.
    let said = cluster.kubectl("logs absent", "")?;
    ensure!(said.code == Some(1) && said.err.contains(r#"pods "absent" not found"#), "{said:?}");
    Ok(())
}

fn releases_go_forth_and_back(cluster: &Cluster) -> anyhow::Result<()> {
    let status = "rollout status deployment/web --timeout=30s";
    let image = "get deployment web -o jsonpath={.spec.template.spec.containers[*].image}";
    cluster.says(
        "set image deployment/web web=evenkeel/demo:v2",
        "deployment.apps/web image updated",
    )?;
    cluster.mentions(status, ROLLED_OUT)?;
    cluster.says(image, "evenkeel/demo:v2")?;
    cluster.says(
        "rollout history deployment/web",
        "deployment.apps/web
         REVISION  CHANGE-CAUSE
         1         <none>
         2         <none>",
    )?;
    cluster.says("rollout undo deployment/web", "deployment.apps/web rolled back")?;
    cluster.mentions(status, ROLLED_OUT)?;
    cluster.says(image, "evenkeel/demo:v1")?;
    cluster.says(
        "rollout history deployment/web",
        "deployment.apps/web
         REVISION  CHANGE-CAUSE
         2         <none>
         3         <none>",
    )
}

fn labels_select(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.says("label deployment web tier=front", "deployment.apps/web labeled")?;
    cluster.says("get deployments -l tier=front -o name", "deployment.apps/web")?;
    cluster.says("label deployment web tier-", "deployment.apps/web unlabeled")?;
    let said = cluster.kubectl("get deployments -l tier=front", "")?;
    let wanted = "No resources found in default namespace.\n";
    ensure!(said.out.is_empty() && said.err == wanted, "{said:?}");
    Ok(())
}

fn manifests_are_checked(cluster: &Cluster) -> anyhow::Result<()> {
    let bad_canary = CANARY.replace("name: api-service\nspec", "name: bad\nspec");
    for (text, wanted) in [
        (
            "apiVersion: nosuch.dev/v1\nkind: Gizmo\nmetadata: {name: a}\n".to_owned(),
            "error: resource mapping not found for name: \"a\" namespace: \"\" from \"STDIN\": \
             no matches for kind \"Gizmo\" in version \"nosuch.dev/v1\"\n\
             ensure CRDs are installed first",
        ),
        (
            WEB.replace("name: web}", "name: bad}").replace("replicas:", "replica:"),
            "Error from server (BadRequest): error when creating \"STDIN\": Deployment in version \
             \"v1\" cannot be handled as a Deployment: strict decoding error: \
             unknown field \"spec.replica\"",
        ),
        (
            bad_canary.replace("stepWeight:", "stepWieght:"),
            "Error from server (BadRequest): error when creating \"STDIN\": Canary in version \
             \"v1beta1\" cannot be handled as a Canary: strict decoding error: \
             unknown field \"spec.analysis.stepWieght\"",
        ),
        (
            bad_canary.replace("threshold: 10", "threshold: ten"),
            "The Canary \"bad\" is invalid: spec.analysis.threshold: Invalid value: \"string\": \
             spec.analysis.threshold in body must be of type integer: \"string\"",
        ),
    ] {
        cluster.refuses("apply -f -", &text, wanted)?;
    }
    cluster.refuses(
        "get gizmos",
        "",
        "error: the server doesn't have a resource type \"gizmos\"",
    )?;
    cluster.refuses(
        "get deployment bad",
        "",
        "Error from server (NotFound): deployments.apps \"bad\" not found",
    )
}

fn pods_that_cannot_run_say_why(cluster: &Cluster) -> anyhow::Result<()> {
    let odd = GREETER.replace("greeter", "odd").replace("example/odd:1", "nginx:1.25");
    cluster.applies("apply -f -", &odd, "pod/odd created")?;
    let big = GREETER.replace("greeter", "big").replace("example/big:1", "evenkeel/demo:v1");
    let big = big.replace("demo:v1'", "demo:v1', resources: {requests: {cpu: '64'}}");
    cluster.applies("apply -f -", &big, "pod/big created")?;

    let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    cluster.says(
        &format!("wait --for={reason}=ImagePullBackOff pod/odd --timeout=30s"),
        "pod/odd condition met",
    )?;
    cluster.mentions(
        "describe pod odd",
        "Status:       Pending
         Warning  Failed  *  kubelet  Failed to pull image \"nginx:1.25\": image \"nginx:1.25\" is not in \
         the image map *images.yaml; images are not pulled, add under images: the line \
         \"nginx:1.25\": {program: /path/to/program, args: []}",
    )?;
    soon(|| {
        cluster.mentions(
            "describe pod big",
            "Status:           Pending
             PodScheduled   False
             Warning  FailedScheduling  *  default-scheduler  0/9 nodes are available: \
             3 node(s) had untolerated taint {CriticalAddonsOnly: true}, 6 Insufficient cpu.",
        )
    })
}

fn a_target_has_one_canary(cluster: &Cluster) -> anyhow::Result<()> {
    let younger = CANARY.replace("name: api-service\nspec", "name: younger\nspec");
    cluster.applies("apply -f -", &younger, "canary.flagger.app/younger created")?;
    cluster.says(
        "wait --for=condition=Accepted=false canary/younger --timeout=30s",
        "canary.flagger.app/younger condition met",
    )?;
    let why = "Canary/default/api-service has the same spec.targetRef (Deployment/api-service) \
               and is older: delete one of the two";
    let condition = r#"jsonpath={.status.conditions[?(@.type=="Accepted")]['reason','message']}"#;
    cluster
        .says(&format!("get canary younger -o {condition}"), &format!("DuplicateTarget {why}"))?;
    soon(|| {
        cluster.mentions("describe canary younger", &format!("Warning Synced * delivery {why}"))
    })?;
    cluster.says("delete canary younger", "canary.flagger.app \"younger\" deleted")?;
    cluster.mentions("get canaries", "api-service   Initialized   0        20*Z")
}

fn deleted_is_gone(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.says("delete deployment web", "deployment.apps \"web\" deleted")?;
    cluster.says(
        "delete pod greeter odd big",
        "pod \"greeter\" deleted
         pod \"odd\" deleted
         pod \"big\" deleted",
    )?;
    soon(|| {
        cluster.says(
            "get pods --no-headers",
            "api-service-primary-* 1/1 Running 0 *
             api-service-primary-* 1/1 Running 0 *
             api-service-primary-* 1/1 Running 0 *",
        )
    })?;
    cluster.refuses(
        "get deployment web",
        "",
        "Error from server (NotFound): deployments.apps \"web\" not found",
    )
}
