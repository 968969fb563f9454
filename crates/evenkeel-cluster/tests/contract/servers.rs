use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use evenkeel_base::{FixedClock, Rng};
use evenkeel_cluster::{ApiServer, NoExec, NoLogs, http};

use crate::folder;

/// Longest wait for something that must happen; generous, for busy machines.
const PATIENCE: Duration = Duration::from_mins(2);

/// What hangs is ended, and differs; generous, for busy machines.
const COMMAND_SECONDS_MAX: &str = "300";

/// For sessions: a request as curl sends it, and what is worth to see of the answer.
const SHELL: &str = r#"
api() {
  local method="$1" path="$2"; shift 2
  curl -sSA contract --cacert "$CA" -H "Authorization: Bearer $TOKEN" -X "$method" \
    -w '\nHTTP %{http_code} %header{warning}\n' "$SERVER$path" "$@"
}
patch() { # json, merge, strategic-merge; path, body
  api PATCH "$2" -H "Content-Type: application/$1-patch+json" -d "$3"
}
ns=/api/v1/namespaces/$NS; apps=/apis/apps/v1/namespaces/$NS
"#;

/// An API server, and a folder for its client.
pub(crate) struct Side {
    pub(crate) url: String,
    case: String,
    home: PathBuf,
    environment: Vec<(&'static str, String)>,
    _embedded: Option<(http::Serving, tokio::runtime::Runtime)>,
}

/// The folder of kubectl; of the real control plane's where that is built.
pub(crate) fn kubectl() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let built = beds().join("bin");
        let mut folders = std::iter::once(built).chain(std::env::split_paths(&path));
        folders.find(|folder| folder.join("kubectl").exists())
    });
    found.as_deref()
}

/// The folder that `tests/realk8s/up` was given.
fn beds() -> PathBuf {
    let named = std::env::var_os("EVENKEEL_REALK8S").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("realk8s"))
}

/// The value of a field in a kubeconfig that is written by `tests/realk8s/up`.
fn field(kubeconfig: &str, name: &str) -> String {
    let rest = kubeconfig.split(&format!("{name}: ")).nth(1).unwrap();
    rest.trim_start_matches('"').split(['"', '}', ',']).next().unwrap().to_owned()
}

impl Side {
    /// The first control plane that runs; `None` when there is none.
    pub(crate) fn real(case: &str) -> Option<Self> {
        let clusters = std::fs::read_to_string(beds().join("clusters")).ok()?;
        let name = clusters.lines().next()?;
        let config = std::fs::read_to_string(beds().join(name).join("kubeconfig")).unwrap();
        let (url, token) = (field(&config, "server"), field(&config, "token"));
        let ca = std::fs::read_to_string(field(&config, "certificate-authority")).unwrap();
        let side = Self::new(case, "real", [url, token, ca], None);
        if side.run("kubectl get --raw /readyz").trim() != "ok" {
            return None;
        }
        side.make_room();
        // Pods are refused before their account is there.
        let began = Instant::now();
        while !side.run("kubectl get serviceaccount default -o name").contains("default\n") {
            assert!(began.elapsed() < PATIENCE, "no default account");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(side)
    }

    /// A new embedded API server.
    pub(crate) fn embedded(case: &str) -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let server = ApiServer::new(Arc::new(FixedClock(now)), Rng::new(7));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let options = http::HttpOptions {
            addr: ([127, 0, 0, 1], 0).into(),
            tokens: BTreeMap::from([("secret".to_owned(), "admin".to_owned())]),
            logs: Arc::new(NoLogs),
            exec: Arc::new(NoExec),
            tls_dir: None,
        };
        let serving = runtime.block_on(http::serve(server, options)).unwrap();
        let url = format!("https://{}", serving.addr);
        let ca = serving.ca_pem.clone();
        let parts = [url, "secret".to_owned(), ca];
        let side = Self::new(case, "embedded", parts, Some((serving, runtime)));
        side.make_room();
        side
    }

    fn new(
        case: &str,
        side: &str,
        [url, token, ca]: [String; 3],
        embedded: Option<(http::Serving, tokio::runtime::Runtime)>,
    ) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("contract-{side}-{case}"));
        if home.exists() {
            std::fs::remove_dir_all(&home).unwrap();
        }
        std::fs::create_dir_all(&home).unwrap();
        let file = |name: &str| home.join(name).to_str().unwrap().to_owned();
        std::fs::write(file("ca.crt"), ca).unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: \
             {{server: \"{url}\", certificate-authority: \"{}\"}}\nusers:\n- name: u\n  user: \
             {{token: {token}}}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u, \
             namespace: contract-{case}}}\n",
            file("ca.crt")
        );
        std::fs::write(file("kubeconfig"), config).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = path.to_str().unwrap();
        let environment = vec![
            ("PATH", format!("{}:{path}", kubectl().unwrap().display())),
            ("KUBECONFIG", file("kubeconfig")),
            ("CA", file("ca.crt")),
            ("HOME", home.to_str().unwrap().to_owned()),
            ("SERVER", url.clone()),
            ("TOKEN", token),
            ("NS", format!("contract-{case}")),
        ];
        Self { url, case: case.to_owned(), home, environment, _embedded: embedded }
    }

    /// An empty namespace for the session, and no kinds of an earlier run.
    fn make_room(&self) {
        let Self { case, .. } = self;
        self.run(&format!("kubectl delete crd -l contract={case}"));
        self.run(&format!("kubectl delete namespace contract-{case} --ignore-not-found"));
        let made = self.run(&format!("kubectl create namespace contract-{case}"));
        assert!(made.contains("created"), "{made}");
    }

    /// Everything the command prints; standard error after standard output.
    pub(crate) fn run(&self, line: &str) -> String {
        let mut command = Command::new("timeout");
        command.args([COMMAND_SECONDS_MAX, "bash", "-c", &format!("{SHELL}\n{line}")]);
        command.current_dir(folder().join("files"));
        let output = command.envs(self.environment.clone()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        text.replace(self.home.to_str().unwrap(), "HOME")
    }
}
