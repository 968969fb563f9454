use std::{
    fs, io::Write as _, net::IpAddr, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, pki_types::PrivateKeyDer},
};

use super::ServeError;

/// The certificate authority of one cluster.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Names by which every client may know the server.
const NAMES: [&str; 6] = [
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// An acceptor with a fresh server certificate, and the PEM of the authority that signed it.
pub(super) fn acceptor(
    dir: Option<&Path>,
    addresses: &[IpAddr],
) -> Result<(TlsAcceptor, String), ServeError> {
    let authority = match dir {
        Some(dir) => kept(dir)?,
        None => made()?.0,
    };
    let mut names = NAMES.map(str::to_owned).to_vec();
    for address in addresses.iter().filter(|address| !address.is_unspecified()) {
        if !names.contains(&address.to_string()) {
            names.push(address.to_string());
        }
    }
    let key = KeyPair::generate().map_err(tls)?;
    let mut params = CertificateParams::new(names).map_err(tls)?;
    params.distinguished_name.push(DnType::CommonName, "evenkeel-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &authority.issuer).map_err(tls)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem))
}

fn tls(error: impl std::fmt::Display) -> ServeError {
    ServeError::Tls { problem: error.to_string() }
}

fn params() -> Result<CertificateParams, ServeError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(tls)?;
    params.distinguished_name.push(DnType::CommonName, "evenkeel-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A new authority, and its key as PEM.
fn made() -> Result<(Authority, String), ServeError> {
    let key = KeyPair::generate().map_err(tls)?;
    let secret = key.serialize_pem();
    let params = params()?;
    let pem = params.self_signed(&key).map_err(tls)?.pem();
    Ok((Authority { pem, issuer: Issuer::new(params, key) }, secret))
}

/// The authority kept in `dir`; made when there is none.
#[expect(clippy::disallowed_methods, reason = "the keys of a server that listens lie in files")]
fn kept(dir: &Path) -> Result<Authority, ServeError> {
    let (certificate, secret) = (dir.join("ca.pem"), dir.join("ca.key"));
    let at = |path: &Path, error: std::io::Error| ServeError::Tls {
        problem: format!("{}: {error}", path.display()),
    };
    if certificate.exists() && secret.exists() {
        let pem = fs::read_to_string(&certificate).map_err(|error| at(&certificate, error))?;
        let key = fs::read_to_string(&secret).map_err(|error| at(&secret, error))?;
        let key = KeyPair::from_pem(&key).map_err(tls)?;
        return Ok(Authority { pem, issuer: Issuer::new(params()?, key) });
    }
    fs::create_dir_all(dir).map_err(|error| at(dir, error))?;
    let (authority, key) = made()?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&secret)
        .map_err(|error| at(&secret, error))?;
    file.write_all(key.as_bytes()).map_err(|error| at(&secret, error))?;
    // Whole or not at all: with half of it nobody could connect, at any later start.
    let fresh = certificate.with_extension("new");
    let written = fs::write(&fresh, &authority.pem).and_then(|()| fs::rename(&fresh, &certificate));
    written.map_err(|error| at(&certificate, error))?;
    Ok(authority)
}
