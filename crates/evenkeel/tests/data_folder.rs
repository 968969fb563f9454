//! A data folder in which nothing can be kept: nothing is asked, nothing is done, and it is said
//! what to do.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder with manifests, and the kubeconfig of a cluster that notices whoever comes.
struct Place {
    dir: PathBuf,
    cluster: TcpListener,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("data_folder").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir_all(dir.join("manifests")).unwrap();
        let dir = dir.canonicalize().unwrap();
        let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        fs::write(dir.join("manifests/a.yaml"), object).unwrap();
        let cluster = TcpListener::bind("127.0.0.1:0").unwrap();
        cluster.set_nonblocking(true).unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: a, cluster: {{server: 'http://{}'}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             users: [{{name: a, user: {{}}}}]\n",
            cluster.local_addr().unwrap()
        );
        fs::write(dir.join("kubeconfig"), config).unwrap();
        Self { dir, cluster }
    }

    /// What a command says that does not start with this data folder.
    fn refused(&self, words: &[&str], data: &Path) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(words).arg("--data-dir").arg(data).current_dir(&self.dir);
        let ended = command.env("HOME", &self.dir).env_remove("KUBECONFIG").output().unwrap();
        let [said, complaint] =
            [ended.stdout, ended.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!((ended.status.code(), &*said), (Some(1), ""), "{words:?}: {complaint}");
        let nobody = self.cluster.accept().unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "{words:?} asked the cluster");
        complaint
    }
}

const RUN: [&str; 3] = ["run", "--kubeconfig", "kubeconfig"];
const UP: [&str; 2] = ["up", "manifests"];

#[test]
fn a_data_folder_that_cannot_be_written_is_named_with_the_fix_and_nothing_starts() {
    let place = Place::new("unwritable");
    let (file, locked) = (place.dir.join("file"), place.dir.join("locked"));
    fs::write(&file, "").unwrap();
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let mut rows = vec![(file.join("data"), "Not a directory")];
    // Rights do not bind root.
    if File::create(locked.join("a")).is_err() {
        rows.extend([(locked.clone(), "Permission denied"), (locked.join("x"), "Permission")]);
    }
    // The kernel's own files do: nobody makes any there.
    let kernel = Path::new("/sys/kernel");
    if let Err(error) = File::create(kernel.join("evenkeel")) {
        let words = match error.kind() {
            ErrorKind::PermissionDenied => "Permission denied",
            _ => "Read-only file system",
        };
        rows.extend(kernel.is_dir().then(|| (kernel.to_owned(), words)));
    }
    for (data, problem) in rows {
        for words in [&RUN[..], &UP] {
            let complaint = place.refused(words, &data);
            let expected = format!(
                "evenkeel: nothing can be kept in the data folder {}: let this user write there, \
                 or name another folder with --data-dir: {problem}",
                data.display()
            );
            let said = complaint.lines().any(|line| line.starts_with(&expected));
            assert!(said, "{words:?}: {complaint}");
        }
    }
}

#[test]
fn a_folder_of_the_record_that_cannot_be_used_is_named_with_the_fix_and_nothing_starts() {
    for (taken, needed, problem) in [
        ("keys", "keys/audit.key", "Not a directory"),
        ("audit", "audit", "File exists"),
        ("audit/LOCK/x", "audit", "it is a folder, not a regular file"),
    ] {
        let place = Place::new("taken");
        let data = place.dir.join("data");
        let file = data.join(taken);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        let complaint = place.refused(&RUN, &data);
        let expected = format!(
            "evenkeel: nothing is done without a record of it, which needs {}: see that this user \
             may write there, or name another folder with --data-dir: audit ",
            data.join(needed).display()
        );
        assert!(complaint.starts_with(&expected), "{complaint}");
        assert!(complaint.contains(problem), "{complaint}");
    }
}
