//! A cluster with a network of its own: ordinary programs, which listen on all addresses.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::ensure;

use crate::world::{self, Cluster, Folder, soon};

/// An ordinary web server: it listens on all addresses, and looks at its surroundings when asked.
const SERVER: &str = r#"
import http.client, http.server, os, socket, urllib.parse

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        what, _, argument = self.path.lstrip("/").partition("/")
        try:
            answer = {
                "name": lambda: socket.gethostname(),
                "user": lambda: str(os.getuid()),
                "client": lambda: self.client_address[0],
                "resolve": lambda: socket.gethostbyname(argument),
                "read": lambda: open("/" + argument).read(),
                "ask": lambda: self.ask(argument),
            }[what]()
            code = 200
        except Exception as error:
            answer, code = repr(error), 500
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def ask(self, argument):
        host, _, path = argument.partition("/")
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", "/" + path)
        return connection.getresponse().read().decode()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler).serve_forever()
"#;

const WEB: &str = r"
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
        image: example/web:1
        ports: [{name: http, containerPort: 80}]
        readinessProbe: {httpGet: {path: /name, port: http}, periodSeconds: 1}
        livenessProbe: {exec: {command: [test, -s, /etc/hosts]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: peers
  securityContext: {runAsUser: 999, runAsGroup: 998}
  containers:
  - name: db
    image: example/web:1
    readinessProbe: {httpGet: {path: /name, port: 80}, periodSeconds: 1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: http, port: 18090, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: front}
spec:
  parentRefs: [{name: front}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
";

#[test]
fn an_ordinary_application_just_runs() -> anyhow::Result<()> {
    runs(None)
}

#[test]
fn an_ordinary_application_just_runs_without_root() -> anyhow::Result<()> {
    // Whoever runs the tests without root has seen it in the other one.
    if nix::unistd::geteuid().is_root() { runs(Some(65_534)) } else { Ok(()) }
}

fn runs(user: Option<u32>) -> anyhow::Result<()> {
    let kubectl = world::kubectl_program()?;
    let folder = Folder::new(&format!("own-network-{}", user.unwrap_or_default()))?;
    let server = folder.write("server.py", SERVER)?;
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755))?;
    // Two clusters side by side may not have one port of the machine.
    let port = if user.is_some() { "18091" } else { "18090" };
    folder.write("manifests/web.yaml", &WEB.replace("18090", port))?;
    let images = format!(
        "images:\n  example/web:1: {{program: /usr/bin/python3, args: [{server}], commands: ['*']}}\n"
    );
    folder.write("manifests/images.yaml", &images)?;
    let cluster = Cluster::start_as(&folder, &kubectl, user, &["--network", "own"])?;
    cluster.line("other commands: --data-dir ")?;
    cluster.line("console: ")?;
    cluster.line("ready")?;
    cluster
        .says("get pods -l app=web --no-headers", "web-* 1/1 Running 0 *\nweb-* 1/1 Running 0 *")?;
    soon(|| cluster.says("get pod db-0 --no-headers", "db-0 1/1 Running 0 *"))?;

    let ask = |path: &str| world::get(&format!("127.0.0.1:{port}"), path);
    // Published at the host's loopback address, balanced over both.
    soon(|| ask("name").map(drop))?;
    let mut names: Vec<String> = (0..8).map(|_| ask("name")).collect::<anyhow::Result<_>>()?;
    names.sort();
    names.dedup();
    ensure!(names.len() == 2 && names.iter().all(|name| name.starts_with("web-")), "{names:?}");
    // Names of Services, near and far; of the API server; of a pod of a headless Service.
    let service = cluster.kubectl("get service web -o jsonpath={.spec.clusterIP}", "")?.out;
    ensure!(service.starts_with("10.96."), "{service}");
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        ensure!(ask(&format!("resolve/{name}"))? == service, "{name}");
    }
    ensure!(ask("resolve/kubernetes.default.svc")? == "10.96.0.1", "the API server");
    let db = cluster.kubectl("get pod db-0 -o jsonpath={.status.podIP}", "")?.out;
    for name in ["peers", "db-0.peers", "db-0.peers.default.svc.cluster.local"] {
        soon(|| {
            let found = ask(&format!("resolve/{name}"))?;
            ensure!(found == db, "{name}: {found} instead of {db}");
            Ok(())
        })?;
    }
    // Through a Service, and from pod to pod, which sees who asks.
    let by_service = ask("ask/web:8080/name")?;
    ensure!(names.contains(&by_service), "{by_service}");
    let own = ask("ask/db-0.peers/client")?;
    let pods = cluster.kubectl("get pods -l app=web -o jsonpath={.items[*].status.podIP}", "")?.out;
    ensure!(pods.split(' ').any(|ip| ip == own), "{own} among {pods}");
    ensure!(ask("ask/db-0.peers/name")? == "db-0", "the host name");
    ensure!(ask("ask/db-0.peers/user")? == "999", "the user");
    ensure!(ask("user")? == "0", "root of the cluster");
    ensure!(ask("read/etc/hosts")?.contains("Kubernetes-managed"), "the hosts file");

    // Restarted in the same pod; the rest is as it was.
    commands_run_beside(&cluster)?;
    agents_come_back(&cluster)?;
    let left = cluster.end()?;
    ensure!(left.is_empty(), "left running: {left:#?}");
    Ok(())
}

/// `kubectl exec`: both outputs, input, the exit code, the container's own surroundings.
fn commands_run_beside(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.says("exec db-0 -- id -u", "999")?;
    cluster.says("exec db-0 -- hostname", "db-0")?;
    let said = cluster.kubectl("exec db-0 -- sh -c echo${IFS}no>&2;exit${IFS}3", "")?;
    ensure!(said.code == Some(3) && said.out.is_empty(), "{said:?}");
    ensure!(said.err.starts_with("no\n"), "{said:?}");
    let long = "a line of input\n".repeat(50_000);
    let said = cluster.kubectl("exec -i db-0 -- cat", &long)?;
    ensure!(said.out == long, "{} of {} bytes came back", said.out.len(), long.len());
    let said = cluster.kubectl("exec db-0 -- no-such-program", "")?;
    ensure!(said.code == Some(126) && said.err.contains("no-such-program"), "{said:?}");
    Ok(())
}

/// A node agent that is killed is started again, and its pods have not noticed.
fn agents_come_back(cluster: &Cluster) -> anyhow::Result<()> {
    let state = "get pods --no-headers -o custom-columns=A:.metadata.uid,B:.status.containerStatuses[0].restartCount";
    let before = cluster.kubectl(state, "")?.out;
    let killed = cluster.kill_an_agent()?;
    soon(|| {
        let agents = cluster.agents();
        ensure!(!agents.is_empty() && !agents.contains(&killed), "{killed} among {agents:?}");
        Ok(())
    })?;
    // It works: a new pod runs.
    cluster.applies("scale deployment/web --replicas=3", "", "deployment.apps/web scaled")?;
    cluster.mentions("rollout status deployment/web --timeout=60s", "deployment \"web\" *")?;
    let after = cluster.kubectl(state, "")?.out;
    for pod in before.lines() {
        ensure!(after.lines().any(|line| line == pod), "{pod} is not among {after}");
    }
    Ok(())
}
