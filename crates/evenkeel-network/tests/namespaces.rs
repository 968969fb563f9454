//! Real namespaces: every scenario runs in a process of its own, as this user and, when that is
//! root, as an unprivileged one.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use evenkeel_network::{DNS, Network, Record, Server, Zone, connect, disconnect, isolate};
use nix::sched::{CloneFlags, setns};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What it is called, and what it does with an empty folder.
type Scenario = (&'static str, fn(&Path) -> Outcome);

const SCENARIOS: [Scenario; 6] = [
    ("every_pod_has_every_port", every_pod_has_every_port),
    ("service_addresses_are_inside_alone", service_addresses_are_inside_alone),
    ("names_resolve_over_udp_and_tcp", names_resolve_over_udp_and_tcp),
    ("a_pod_that_is_gone_leaves_nothing", a_pod_that_is_gone_leaves_nothing),
    ("pods_that_come_and_go_do_not_disturb_others", pods_that_come_and_go_do_not_disturb_others),
    ("two_clusters_have_the_same_addresses", two_clusters_have_the_same_addresses),
];
/// `nobody` of every Linux.
const NOBODY: u32 = 65_534;
/// How long a socket of a test waits: longer than anything takes on a busy machine, and shorter than
/// the system remembers a hardware address that is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, role, name, folder] = words.as_slice()
        && role == "scenario"
    {
        let scenario = SCENARIOS.iter().find(|(known, _)| known == name);
        return match scenario.map(|(_, run)| run(Path::new(folder))) {
            Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(error)) => {
                writeln!(io::stderr(), "{error}").unwrap_or_default();
                ExitCode::FAILURE
            }
            None => ExitCode::from(2),
        };
    }
    // As the test runner calls it: a filter, or flags.
    let filter = words.get(1).filter(|word| !word.starts_with('-')).cloned().unwrap_or_default();
    if words.iter().any(|word| word == "--list") {
        for (name, _) in SCENARIOS {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    let mut users = vec![None];
    if nix::unistd::geteuid().is_root() {
        users.push(Some(NOBODY));
    }
    for (name, _) in SCENARIOS.iter().filter(|(name, _)| name.contains(&filter)) {
        for user in &users {
            let who = user.map_or("this user", |_| "nobody");
            match play(name, *user) {
                Ok(()) => say(&format!("test {name} as {who} ... ok")),
                Err(error) => {
                    say(&format!("test {name} as {who} ... FAILED: {error}"));
                    failed += 1;
                }
            }
        }
    }
    say(&format!("test result: {}. {failed} failed", if failed == 0 { "ok" } else { "FAILED" }));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    writeln!(io::stdout(), "{line}").unwrap_or_default();
}

fn play(name: &str, user: Option<u32>) -> Outcome {
    let who = user.unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("evenkeel-{name}-{}-{who}", std::process::id()));
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    // Where every user can read it.
    let program = folder.join("program");
    fs::copy(std::env::current_exe()?, &program)?;
    let mut command = Command::new(&program);
    command.args(["scenario", name]).arg(&folder);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output()?;
    fs::remove_dir_all(&folder)?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
}

/// A cluster's network with pods that answer with their names on port 80 of all addresses.
struct Scene {
    network: Network,
    folder: PathBuf,
}

impl Scene {
    fn set(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        isolate()?;
        Ok(Self { network: Network::create()?, folder: folder.to_owned() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn add_pod(&self, name: &str, address: [u8; 4]) -> io::Result<()> {
        let file = self.file(name);
        self.network.inside(|| connect(&file, name, address.into()))?
    }

    fn in_pod<R: Send>(&self, name: &str, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        let file = self.file(name);
        self.network.inside(|| {
            setns(File::open(file)?, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?
    }

    /// A server in a pod: answers one connection after the other with its name and the client's
    /// address.
    fn serve(&self, name: &'static str, at: (Ipv4Addr, u16)) -> io::Result<()> {
        let listener = self.in_pod(name, || TcpListener::bind(at))??;
        thread::spawn(move || answer(&listener, name));
        Ok(())
    }
}

fn answer(listener: &TcpListener, name: &str) {
    while let Ok((mut stream, client)) = listener.accept() {
        write!(stream, "{name} {}", client.ip()).unwrap_or_default();
    }
}

fn asked(address: [u8; 4], port: u16) -> io::Result<String> {
    let address = SocketAddr::from((address, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Outcome {
    if found == expected {
        return Ok(());
    }
    Err(format!("found {found:?} instead of {expected:?}").into())
}

fn every_pod_has_every_port(folder: &Path) -> Outcome {
    let scene = Scene::set(folder)?;
    for (name, address) in [("one", [10, 244, 0, 2]), ("two", [10, 244, 1, 2])] {
        scene.add_pod(name, address)?;
        scene.serve(name, (Ipv4Addr::UNSPECIFIED, 80))?;
    }
    // From the cluster's network, and from pod to pod.
    let network = &scene.network;
    same(&network.inside(|| asked([10, 244, 0, 2], 80))??, &"one 10.244.0.1".to_owned())?;
    same(&network.inside(|| asked([10, 244, 1, 2], 80))??, &"two 10.244.0.1".to_owned())?;
    let from_one = scene.in_pod("one", || asked([10, 244, 1, 2], 80))??;
    same(&from_one, &"two 10.244.0.2".to_owned())?;
    // A pod's loopback is its own.
    same(&scene.in_pod("two", || asked([127, 0, 0, 1], 80))??, &"two 127.0.0.1".to_owned())?;
    // Making it again changes nothing.
    scene.add_pod("one", [10, 244, 0, 2])?;
    same(&network.inside(|| asked([10, 244, 0, 2], 80))??, &"one 10.244.0.1".to_owned())
}

fn service_addresses_are_inside_alone(folder: &Path) -> Outcome {
    let scene = Scene::set(folder)?;
    scene.add_pod("one", [10, 244, 0, 2])?;
    let service = SocketAddr::from(([10, 96, 3, 4], 80));
    let listener = scene.network.inside(|| TcpListener::bind(service))??;
    thread::spawn(move || answer(&listener, "service"));
    let reached = scene.in_pod("one", || asked([10, 96, 3, 4], 80))??;
    same(&reached, &"service 10.244.0.2".to_owned())?;
    // The host's own listeners are not there, nor are the cluster's on the host.
    let outside = TcpListener::bind("127.0.0.1:0")?;
    let port = outside.local_addr()?.port();
    let reached = scene.network.inside(|| asked([127, 0, 0, 1], port))?;
    same(&reached.map_err(|error| error.kind()), &Err(io::ErrorKind::ConnectionRefused))?;
    same(&TcpListener::bind(service).is_err(), &true)
}

fn names_resolve_over_udp_and_tcp(folder: &Path) -> Outcome {
    let scene = Scene::set(folder)?;
    scene.add_pod("one", [10, 244, 0, 2])?;
    let mut zone = Zone::default();
    zone.add("web.shop.svc.cluster.local", Record::Address(Ipv4Addr::new(10, 96, 0, 7)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _entered = runtime.enter();
    let (_sender, zone) = tokio::sync::watch::channel(Arc::new(zone));
    let server = Server::bind(&scene.network, DNS, zone)?;
    runtime.spawn(server.run());
    let mut question =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04shop\x03svc\x07cluster\x05local\
          \x00\x00\x01\x00\x01"
            .to_vec();
    let by_udp = scene.in_pod("one", || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(&question, (DNS, 53))?;
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer)?;
        io::Result::Ok(answer[..count].to_vec())
    })??;
    same(&by_udp.ends_with(&[10, 96, 0, 7]), &true)?;
    let length = u16::try_from(question.len())?.to_be_bytes();
    question.splice(0..0, length);
    let by_tcp = scene.in_pod("one", || {
        let mut stream = TcpStream::connect_timeout(&(IpAddr::from(DNS), 53).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&question)?;
        let mut answer = vec![0; by_udp.len() + 2];
        stream.read_exact(&mut answer)?;
        io::Result::Ok(answer)
    })??;
    same(&by_tcp.get(2..), &Some(by_udp.as_slice()))
}

fn a_pod_that_is_gone_leaves_nothing(folder: &Path) -> Outcome {
    let scene = Scene::set(folder)?;
    let links = || -> io::Result<usize> {
        scene
            .network
            .inside(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?.lines().count()))?
    };
    let before = links()?;
    for round in 0..3 {
        scene.add_pod("one", [10, 244, 0, 2])?;
        scene.serve("one", (Ipv4Addr::UNSPECIFIED, 80))?;
        same(&links()?, &(before + 1))?;
        let file = scene.file("one");
        scene.network.inside(|| disconnect(&file, "one"))??;
        same(&file.exists(), &false)?;
        same(&(round, links()?), &(round, before))?;
    }
    // Nor does one that never was.
    let file = scene.file("never");
    Ok(scene.network.inside(|| disconnect(&file, "never"))??)
}

fn pods_that_come_and_go_do_not_disturb_others(folder: &Path) -> Outcome {
    let scene = Scene::set(folder)?;
    let service = SocketAddr::from(([10, 96, 3, 4], 80));
    let listener = scene.network.inside(|| TcpListener::bind(service))??;
    thread::spawn(move || answer(&listener, "service"));
    scene.add_pod("stays", [10, 244, 0, 2])?;
    for round in 3..13 {
        let name = format!("goes{round}");
        scene.add_pod(&name, [10, 244, 0, round])?;
        same(
            &scene.in_pod("stays", || asked([10, 96, 3, 4], 80))??,
            &"service 10.244.0.2".to_owned(),
        )?;
        let file = scene.file(&name);
        scene.network.inside(|| disconnect(&file, &name))??;
        same(
            &scene.in_pod("stays", || asked([10, 96, 3, 4], 80))??,
            &"service 10.244.0.2".to_owned(),
        )?;
    }
    Ok(())
}

fn two_clusters_have_the_same_addresses(folder: &Path) -> Outcome {
    let scene = Scene::set(folder)?;
    let other = Scene { network: Network::create()?, folder: folder.join("other") };
    fs::create_dir(&other.folder)?;
    for (scene, name) in [(&scene, "one"), (&other, "two")] {
        scene.add_pod(name, [10, 244, 0, 2])?;
        scene.serve(name, (Ipv4Addr::UNSPECIFIED, 80))?;
    }
    let of = |scene: &Scene| scene.network.inside(|| asked([10, 244, 0, 2], 80))?;
    same(&of(&scene)?, &"one 10.244.0.1".to_owned())?;
    same(&of(&other)?, &"two 10.244.0.1".to_owned())
}
