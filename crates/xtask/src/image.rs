//! `cargo xtask image`: the container image as a tarball, made without a daemon.
//!
//! ```text
//! oci-layout, index.json       the OCI layout: ctr images import, skopeo oci-archive:
//! manifest.json                the same for docker load, skopeo docker-archive:
//! blobs/sha256/DIGEST          configuration, manifest, and the one layer:
//!   /evenkeel                  the program, and the libraries of a binary that is not static
//!   /etc/passwd, /etc/group    the user 65532, whose home /data is
//!   /etc/ssl/certs/...         the authorities that TLS to others trusts
//! ```
//! The same files give the same bytes. `Dockerfile` makes the same with a daemon.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    say,
    tar::{Archive, Owner},
};

/// A static binary needs nothing of its own in the image.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// Where programs look for authorities on Debian, and so in the image.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Images have the time at which they were made; this one is made again and again.
const CREATED: &str = "1970-01-01T00:00:00Z";
const BLOBS: &str = "blobs/sha256";

/// What goes in, and where it comes out.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) binary: PathBuf,
    pub(crate) name: String,
}

/// Runs it with these flags; builds a static binary unless one is named.
pub(crate) fn run(flags: &[&str]) -> anyhow::Result<()> {
    let (mut binary, mut out, mut name) = (None, None, None);
    for pair in flags.chunks(2) {
        match *pair {
            ["--binary", value] => binary = Some(PathBuf::from(value)),
            ["--out", value] => out = Some(PathBuf::from(value)),
            ["--name", value] => name = Some(value.to_owned()),
            _ => bail!("unknown flag or no value: {}", pair.join(" ")),
        }
    }
    let binary = binary.map_or_else(build, Ok)?;
    let out = out.unwrap_or_else(|| PathBuf::from("evenkeel-image.tar"));
    let version = env!("CARGO_PKG_VERSION");
    let name = name.unwrap_or_else(|| format!("localhost/evenkeel:{version}"));
    let bytes = Image { binary, name: name.clone() }.make()?;
    fs::write(&out, &bytes).with_context(|| out.display().to_string())?;
    let mb = bytes.len().div_ceil(100_000);
    say(&format!("{}: {name}, {}.{} MB", out.display(), mb / 10, mb % 10));
    Ok(())
}

/// The program, static, in the profile `image`.
fn build() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let words = ["build", "--profile", "image", "--target", TARGET, "--package", "evenkeel"];
    let mut cargo = crate::cargo();
    // Debian's musl-tools; ring has some C.
    cargo.args(words).current_dir(&root).env("CC_x86_64_unknown_linux_musl", "musl-gcc");
    let built = cargo.status().context("run cargo build")?;
    anyhow::ensure!(
        built.success(),
        "no static binary: it needs `rustup target add {TARGET}` and musl-gcc (Debian: musl-tools)"
    );
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root.join("target"));
    Ok(target.join(TARGET).join("image/evenkeel"))
}

impl Image {
    /// The tarball.
    pub(crate) fn make(&self) -> anyhow::Result<Vec<u8>> {
        let program = self.binary.file_name().and_then(|name| name.to_str());
        let program = program.context("--binary must be a file")?;
        let (layer, config) = (self.layer(program)?, |layer: &str| {
            json!({"architecture": "amd64", "os": "linux", "created": CREATED,
                "config": {"User": "65532:65532", "WorkingDir": "/",
                    "Env": [format!("SSL_CERT_FILE={AUTHORITIES}")],
                    "Entrypoint": [format!("/{program}")]},
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
                "history": [{"created": CREATED, "created_by": "cargo xtask image"}]})
        });
        let mut blobs = BTreeMap::new();
        let mut add = |kind: &str, bytes: Vec<u8>| {
            let digest = digest(&bytes);
            let media = format!("application/vnd.oci.image.{kind}");
            let at = json!({"mediaType": media, "digest": format!("sha256:{digest}"),
                "size": bytes.len()});
            blobs.insert(digest.clone(), bytes);
            (digest, at)
        };
        let (layer, layer_at) = add("layer.v1.tar", layer);
        let (config, config_at) = add("config.v1+json", text(&config(&layer)));
        let manifest = json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config_at, "layers": [layer_at]});
        let (_, mut manifest_at) = add("manifest.v1+json", text(&manifest));
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        manifest_at["annotations"] = json!({"io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest_at]});
        let for_docker = json!([{"Config": format!("{BLOBS}/{config}"), "RepoTags": [self.name],
            "Layers": [format!("{BLOBS}/{layer}")]}]);

        let mut archive = Archive::default();
        archive.folder("blobs", Owner::Root)?;
        archive.folder(BLOBS, Owner::Root)?;
        for (digest, bytes) in &blobs {
            archive.file(&format!("{BLOBS}/{digest}"), 0o644, bytes)?;
        }
        archive.file("index.json", 0o644, &text(&index))?;
        archive.file("manifest.json", 0o644, &text(&for_docker))?;
        archive.file("oci-layout", 0o644, &text(&json!({"imageLayoutVersion": "1.0.0"})))?;
        Ok(archive.end())
    }

    /// What the container sees.
    fn layer(&self, program: &str) -> anyhow::Result<Vec<u8>> {
        let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
        let mut files = BTreeMap::from([
            (program.to_owned(), (0o755, read(&self.binary)?)),
            ("etc/passwd".to_owned(), (0o644, b"evenkeel:x:65532:65532::/data:\n".to_vec())),
            ("etc/group".to_owned(), (0o644, b"evenkeel:x:65532:\n".to_vec())),
        ]);
        let authorities = Path::new(AUTHORITIES);
        anyhow::ensure!(authorities.exists(), "{AUTHORITIES} is missing: install ca-certificates");
        let inside = |path: &Path| path.to_string_lossy().trim_start_matches('/').to_owned();
        files.insert(inside(authorities), (0o644, read(authorities)?));
        for library in libraries(&self.binary)? {
            files.insert(inside(&library), (0o755, read(&library)?));
        }
        // A folder comes before what is in it.
        let mut folders = BTreeMap::from([("data".to_owned(), Owner::Program)]);
        for path in files.keys() {
            for folder in Path::new(path).ancestors().skip(1) {
                folders.insert(inside(folder), Owner::Root);
            }
        }
        folders.remove("");
        let mut archive = Archive::default();
        for (path, owner) in &folders {
            archive.folder(path, *owner)?;
        }
        for (path, (mode, content)) in &files {
            archive.file(path, *mode, content)?;
        }
        Ok(archive.end())
    }
}

/// The shared libraries that a binary asks for, its loader among them; a static one has none.
fn libraries(binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(binary).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |line: &str| {
        let words = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(words))
    };
    Ok(text.lines().filter_map(path).collect())
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_image() {
        let binary = std::env::current_exe().expect("this program");
        let image = Image { binary, name: "localhost/test:1".to_owned() };
        let (one, two) = (image.make().expect("an image"), image.make().expect("an image"));
        assert!(one == two);
        let text = String::from_utf8_lossy(&one);
        for wanted in ["\"RepoTags\":[\"localhost/test:1\"]", "\"User\":\"65532:65532\"", "libc.so"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
    }
}
