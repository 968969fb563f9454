//! Commands that answer a question: 0 and 1 are answers, 2 means that there is no answer.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Exit code and standard error of `evenkeel`, far from any cluster.
fn evenkeel(words: &[&str]) -> (Option<i32>, String) {
    at_home(&folder("home"), words)
}

/// The same for a user with this home folder.
fn at_home(home: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    // An empty list of files counts as not set.
    command.args(words).env("HOME", home).env("KUBECONFIG", "").env_remove("XDG_STATE_HOME");
    let ended = command.env_remove("KUBERNETES_SERVICE_HOST").output().unwrap();
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exit_codes").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A Prometheus with one alert in this state; it answers once.
fn prometheus(state: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = format!(
        r#"{{"status":"success","data":{{"alerts":[{{"state":"{state}","labels":{{}}}}]}}}}"#
    );
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        while !request.ends_with(b"\r\n\r\n") {
            let len = stream.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..len]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
    });
    url
}

#[test]
fn alerts_that_fire_and_alerts_that_are_not_known_are_distinguished() {
    let alerts = |url: &str| evenkeel(&["alerts", "--prometheus", url]);
    assert_eq!(alerts(&prometheus("pending")).0, Some(0));
    assert_eq!(alerts(&prometheus("firing")).0, Some(1));
    // Nothing listens on the port of a listener that is gone.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, complaint) = alerts(&format!("http://{gone}"));
    assert!(code == Some(2) && complaint.contains("for its alerts"), "{code:?} {complaint}");
    let (code, complaint) = evenkeel(&["alerts"]);
    assert!(code == Some(2) && complaint.contains("--data-dir"), "{code:?} {complaint}");
}

#[test]
fn alerts_of_an_up_that_has_ended_are_not_there_and_the_folder_is_named() {
    let data = folder("ended");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(data.join("console"), format!("http://{gone}")).unwrap();
    let (code, complaint) = evenkeel(&["alerts", "--data-dir", data.to_str().unwrap()]);
    let said = format!("no `evenkeel up` is running in {}", data.display());
    assert!(code == Some(2) && complaint.contains(&said), "{code:?} {complaint}");
}

#[test]
fn a_record_that_nobody_named_is_named() {
    let home = folder("record-home");
    let data = home.join(".local/state/evenkeel");
    fs::create_dir_all(data.join("audit")).unwrap();
    let (_, complaint) = at_home(&home, &["audit", "list"]);
    let said = format!("this is the record in {}", data.join("audit").display());
    assert!(complaint.contains(&said), "{complaint}");
    let (_, complaint) = at_home(&home, &["audit", "list", "--data-dir", data.to_str().unwrap()]);
    assert!(!complaint.contains("this is the record"), "{complaint}");
    let (code, complaint) = at_home(&home, &["audit", "list", "--object", "foo/api"]);
    assert!(code == Some(2) && complaint.contains("of kind \"foo\""), "{code:?} {complaint}");
}

#[test]
fn the_help_of_every_data_folder_names_the_default() {
    for words in
        [&["up"][..], &["run"], &["alerts"], &["why"], &["slo", "status"], &["audit", "list"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        let help = command.args(words).arg("--help").output().unwrap().stdout;
        let help = String::from_utf8(help).unwrap();
        let words_in_a_row = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let default = "[default: evenkeel in `$XDG_STATE_HOME` or ~/.local/state]";
        assert!(words_in_a_row.contains(default), "{words:?}: {help}");
    }
}

#[test]
fn every_other_question_does_the_same() {
    let data = folder("empty");
    let data = data.to_str().unwrap();
    for words in [
        &["why", "canary/api"][..],
        &["why", "nonsense"],
        &["slo", "status"],
        &["slo", "status", "--data-dir", data],
        &["slo", "status", "no-such-file.yaml"],
        &["audit", "verify"],
        &["audit", "verify", "--data-dir", data, "--key", data],
        &["audit", "verify", "--data-dir", data, "--head", data],
        &["audit", "list", "--data-dir", data],
        &["audit", "list", "--follow", "--data-dir", data],
        &["audit", "show", "1", "--data-dir", data],
    ] {
        let (code, complaint) = evenkeel(words);
        assert_eq!(code, Some(2), "{words:?}: {complaint}");
    }
    // A missing record may have been deleted as a whole: that is an answer.
    let (code, complaint) = evenkeel(&["audit", "verify", "--data-dir", data]);
    assert!(code == Some(1) && complaint.contains("no audit record"), "{code:?} {complaint}");
}

/// It finds the counters of a running `up` by its data folder, as other commands do.
#[test]
fn slo_status_asks_the_up_of_the_data_folder() {
    let data = folder("up");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(data.join("console"), format!("http://{gone}")).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slo.yaml");
    let (code, complaint) =
        evenkeel(&["slo", "status", "--data-dir", data.to_str().unwrap(), file]);
    assert!(code == Some(2) && complaint.contains(&format!("http://{gone}")), "{complaint}");
    // Its cluster, too.
    fs::write(data.join("kubeconfig"), "no kubeconfig").unwrap();
    let (code, complaint) = evenkeel(&["slo", "status", "--data-dir", data.to_str().unwrap()]);
    assert!(code == Some(2) && complaint.contains("kubeconfig"), "{complaint}");
}

/// What `up` has written stays there when it ends.
#[test]
fn an_up_that_has_ended_is_not_asked_and_other_clusters_come_first() {
    let home = folder("after-up");
    let (data, kube) = (home.join(".local/state/evenkeel"), home.join(".kube"));
    fs::create_dir_all(&data).unwrap();
    fs::create_dir_all(&kube).unwrap();
    fs::remove_file(kube.join("config")).unwrap_or_default();
    let up = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = up.local_addr().unwrap();
    fs::write(data.join("console"), format!("http://{addr}")).unwrap();
    // Without a context: a reader complains and names the file.
    let cluster = format!("clusters: [{{name: up, cluster: {{server: 'http://{addr}'}}}}]");
    fs::write(data.join("kubeconfig"), cluster).unwrap();
    let status = || at_home(&home, &["slo", "status"]);
    let (_, complaint) = status();
    assert!(complaint.contains("evenkeel/kubeconfig"), "{complaint}");
    // The order is that of the help.
    fs::write(kube.join("config"), "no kubeconfig").unwrap();
    for words in [&["slo", "status"][..], &["why", "canary/api"]] {
        let (code, complaint) = at_home(&home, words);
        assert!(code == Some(2) && complaint.contains(".kube/config"), "{complaint}");
    }
    fs::remove_file(kube.join("config")).unwrap();
    drop(up);
    let (code, complaint) = status();
    assert!(code == Some(2) && !complaint.contains("evenkeel/kubeconfig"), "{complaint}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slo.yaml");
    let (_, complaint) = at_home(&home, &["slo", "status", file]);
    assert!(!complaint.contains(&addr.to_string()), "{complaint}");
}

#[test]
fn a_record_that_cannot_be_read_is_not_reported_as_tampered_with() {
    let data = folder("unreadable");
    let audit = data.join("audit");
    if audit.is_dir() {
        fs::remove_dir_all(&audit).unwrap();
    }
    // No folder: the system refuses to list it for any user.
    fs::write(&audit, "").unwrap();
    let words = ["audit", "verify", "--data-dir", data.to_str().unwrap()];
    let (code, complaint) = evenkeel(&words);
    let named = format!("{} cannot be read, so nothing is known about it", audit.display());
    assert!(code == Some(2) && complaint.contains(&named), "{code:?} {complaint}");
    fs::remove_file(&audit).unwrap();
    fs::create_dir(&audit).unwrap();
    let first = audit.join("000001.jsonl");
    std::os::unix::fs::symlink("000001.jsonl", &first).unwrap();
    for command in ["verify", "list"] {
        let (code, complaint) = evenkeel(&["audit", command, "--data-dir", data.to_str().unwrap()]);
        assert!(code == Some(2) && complaint.contains(first.to_str().unwrap()), "{complaint}");
    }
}
