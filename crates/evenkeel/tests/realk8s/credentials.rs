//! Credentials that are replaced while `evenkeel run` is at work: it goes on with the new ones, and
//! stays the leader.

use std::{path::Path, process::Command};

use evenkeel_api::{GroupKind, Key};
use serde_json::json;

use crate::{
    audit,
    bed::{Bed, folder},
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    rights, until,
};

/// A busy machine may be late with a renewal, but not by so much.
const LEASE: &str = "45s";

/// Runs a program to its end; what it prints.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn kubectl(bed: &Bed) -> Command {
    let mut command = Command::new(folder().join("bin/kubectl"));
    command.arg("--kubeconfig").arg(bed.file("kubeconfig"));
    command
}

/// Replaces a file as a whole, as a kubelet does.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Good answers that a user has had so far.
fn answered(bed: &Bed, user: &str) -> usize {
    audit::requests(bed, user).iter().filter(|request| request.code == 200).count()
}

fn goes_on_as(bed: &Bed, run: &Evenkeel, user: &str) {
    let before = answered(bed, user);
    until(&format!("it goes on as {user}"), || answered(bed, user) > before + 4);
    let log = run.log();
    assert!(!log.contains("leadership lost"), "{log}");
}

#[test]
fn a_pods_token_that_is_replaced_and_expires_is_taken_up_at_once() {
    let Some(bed) = Bed::take_later() else { return };
    let user = format!("system:serviceaccount:default:{}", rights::ACCOUNT);
    bed.put(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": rights::ACCOUNT, "namespace": "default"}}));
    // A token is valid for as long as what it is bound to is there.
    let secret = |name: &str| {
        bed.put(&json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": "default"}}))
    };
    let token = |bound: &Key| {
        let bound = ["--bound-object-kind=Secret", "--bound-object-name", &*bound.name];
        output(kubectl(&bed).args(["create", "token", rights::ACCOUNT]).args(bound))
    };
    let (first, second) = (secret("first-token"), secret("second-token"));
    let file = bed.file("token");
    let old = token(&first);
    replace(&file, &old);
    let login = format!("{{tokenFile: {:?}}}", file.display().to_string());
    let prometheus = Prometheus::start();
    let login = Some((&*user, &*login));
    let start = Start { login, lease: LEASE, ..Start::with(&prometheus.url) };
    let run = Evenkeel::start(&bed, &start);
    until("it leads", || run.log().contains("leadership gained"));

    replace(&file, &token(&second));
    bed.delete(&first);
    until("the old one is refused", || {
        let mut command = kubectl(&bed);
        // Without the admin's own.
        let bare = bed.file("bare.kubeconfig");
        let text = std::fs::read_to_string(bed.file("kubeconfig")).unwrap();
        std::fs::write(&bare, text.replace("{token: token-of-admin}", "{}")).unwrap();
        command.arg("--kubeconfig").arg(bare).args(["auth", "whoami", "--token", &old]);
        !command.output().unwrap().status.success()
    });
    goes_on_as(&bed, &run, &user);
    bed.delete(&Key::new(GroupKind::new("", "Secret"), "default", &second.name));
}

/// Makes a certificate for a user of the group `evenkeel`, signed by the bed's authority.
fn certify(bed: &Bed, user: &str) -> (String, String) {
    let (key, request, cert) = (bed.file("tls.key"), bed.file("tls.csr"), bed.file("tls.made"));
    // With an extension it is of version 3, the only one that rustls takes.
    let extensions = bed.file("tls.extensions");
    std::fs::write(&extensions, "extendedKeyUsage = clientAuth\n").unwrap();
    let openssl = |words: &str| {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).current_dir(folder());
        command
    };
    output(
        openssl("req -newkey rsa:2048 -nodes -subj")
            .arg(format!("/O=evenkeel/CN={user}"))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&request),
    );
    output(
        openssl("x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -in")
            .arg(&request)
            .arg("-extfile")
            .arg(&extensions)
            .arg("-out")
            .arg(&cert),
    );
    (std::fs::read_to_string(cert).unwrap(), std::fs::read_to_string(key).unwrap())
}

#[test]
fn a_client_certificate_that_is_replaced_is_taken_up() {
    let Some(bed) = Bed::take_later() else { return };
    let (cert, key) = (bed.file("client.crt"), bed.file("client.key"));
    let install = |user: &str| {
        let (made, secret) = certify(&bed, user);
        replace(&key, &secret);
        replace(&cert, &made);
    };
    install("certified-1");
    let login = json!({"client-certificate": cert, "client-key": key}).to_string();
    let prometheus = Prometheus::start();
    let login = Some(("certified-1", &*login));
    let run = Evenkeel::start(&bed, &Start { login, lease: LEASE, ..Start::with(&prometheus.url) });
    until("it leads", || run.log().contains("leadership gained"));
    install("certified-2");
    goes_on_as(&bed, &run, "certified-2");
}

#[test]
fn a_credential_plugin_is_asked_again_when_its_token_expires() {
    let Some(bed) = Bed::take_later() else { return };
    let (file, script) = (bed.file("plugin-token"), bed.file("plugin"));
    replace(&file, "token-of-client-39");
    std::fs::write(
        &script,
        "#!/bin/sh\necho '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \
         \"kind\": \"ExecCredential\", \"status\": {\"expirationTimestamp\": \"'$(date -u -d \
         '+15 seconds' +%Y-%m-%dT%H:%M:%SZ)'\", \"token\": \"'$(cat \"$1\")'\"}}'\n",
    )
    .unwrap();
    let login = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh",
        "args": [script, file], "interactiveMode": "Never"}})
    .to_string();
    let prometheus = Prometheus::start();
    let login = Some(("client-39", &*login));
    let run = Evenkeel::start(&bed, &Start { login, lease: LEASE, ..Start::with(&prometheus.url) });
    until("it leads", || run.log().contains("leadership gained"));
    replace(&file, "token-of-client-40");
    goes_on_as(&bed, &run, "client-40");
}
