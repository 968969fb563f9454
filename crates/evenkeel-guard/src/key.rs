use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use crate::regular;

/// In front of the 32 bytes of a private key in PKCS #8 (RFC 8410), as `openssl genpkey` writes it.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// In front of the 32 bytes of a public key in a `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_HEAD: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Longest key file that is read: both kinds are far smaller.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// The private key that signs the record. It lies outside the record's folder, so that write
/// access to the record alone is not enough to rewrite it.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// The public half: what [`crate::verify`] needs to distinguish our record from a rewritten one.
///
/// **Text**: base64 of its 32 bytes. It is read from that, from PEM, and from a file with either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refuses.
    #[error("audit key {path}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The file exists and holds something else.
    #[error(
        "audit key {path} is not an Ed25519 private key in PEM (make one with `evenkeel audit \
         key --create FILE` or `openssl genpkey -algorithm ed25519`)"
    )]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
    /// There are no random numbers.
    #[error("the operating system gave no random numbers for an audit key")]
    NoRandomness,
    /// A public key that is neither 32 bytes in base64 nor PEM.
    #[error(
        "`{text}` is neither a file nor an Ed25519 public key in base64 or PEM, as `evenkeel \
         audit key` prints it"
    )]
    NotPublic {
        /// What was given.
        text: String,
    },
}

impl SigningKey {
    /// Reads the key in `path` (PKCS #8 in PEM), which may be a pipe.
    ///
    /// **Errors**: the file is missing, not readable, or not such a key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::held(path, regular::given(path, FILE_BYTES_MAX))
    }

    /// The key that was read from `path`.
    fn held(path: &Path, bytes: io::Result<Vec<u8>>) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let text = bytes.and_then(text_of).map_err(failed)?;
        let der = der(&text, "PRIVATE KEY");
        let pair = der.and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok());
        let pair = pair.ok_or_else(|| KeyError::NotAKey { path: path.to_owned() })?;
        Ok(Self::new(pair))
    }

    /// Makes a new key from the operating system's randomness and writes it to `path`, readable by
    /// its owner only, in a folder of which the same is true when it is made here.
    ///
    /// **Errors**: the file exists already, or cannot be written.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let mut seed = [0_u8; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::NoRandomness)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| KeyError::NotAKey { path: path.to_owned() })?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        let text = pem("PRIVATE KEY", &[&PKCS8_HEAD[..], &seed].concat());
        // Under another name first: a crash must not leave half a key.
        let fresh = path.with_extension("new");
        write_private(&fresh, &text).map_err(failed)?;
        let placed = fs::hard_link(&fresh, path);
        let removed = fs::remove_file(&fresh);
        placed.and(removed).map_err(failed)?;
        Ok(Self::new(pair))
    }

    /// The key in `path`, a regular file; a new one when there is none yet. A key that others can
    /// read becomes private again.
    ///
    /// **Errors**: as [`Self::read`] and [`Self::create`].
    pub fn read_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::held(path, regular::small(path, FILE_BYTES_MAX)) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            read => {
                let failed = |source| KeyError::Io { path: path.to_owned(), source };
                make_private(path, 0o600).map_err(failed)?;
                if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                    make_private(dir, 0o700).map_err(failed)?;
                }
                read
            }
        }
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn sign(&self, text: &str) -> String {
        BASE64_STANDARD.encode(self.pair.sign(text.as_bytes()))
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: PublicKey(public) }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey of {}", self.public)
    }
}

impl PublicKey {
    /// A key as a person gives it: the name of a file or pipe that holds one, or its text.
    ///
    /// **Errors**: it is neither.
    pub fn given(text: &str) -> Result<Self, KeyError> {
        let path = Path::new(text);
        let held = match regular::given(path, FILE_BYTES_MAX).and_then(text_of) {
            Ok(held) => held,
            Err(_) if !path.exists() => text.to_owned(),
            Err(source) => return Err(KeyError::Io { path: path.to_owned(), source }),
        };
        held.parse().map_err(|_| KeyError::NotPublic { text: text.to_owned() })
    }

    /// Whether `signature` (base64) is that of this key on `text`.
    pub(crate) fn signed(&self, text: &str, signature: &str) -> bool {
        BASE64_STANDARD.decode(signature).is_ok_and(|signature| {
            UnparsedPublicKey::new(&ED25519, self.0).verify(text.as_bytes(), &signature).is_ok()
        })
    }

    /// As PEM, for other tools.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI_HEAD[..], &self.0].concat())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = match der(text, "PUBLIC KEY") {
            Some(der) => der.strip_prefix(&SPKI_HEAD).map(<[u8]>::to_vec),
            None => BASE64_STANDARD.decode(text.trim()).ok(),
        };
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| KeyError::NotPublic { text: text.trim().to_owned() })
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Takes all rights on a file or folder from everybody but its owner.
pub(crate) fn make_private(path: &Path, mode: u32) -> io::Result<()> {
    // The six lowest bits are those of the group and of others.
    let now = fs::metadata(path)?.permissions().mode();
    if now.trailing_zeros() >= 6 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = regular::writable(path)?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn text_of(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text"))
}

fn pem(label: &str, der: &[u8]) -> String {
    // Both kinds of key fit on one line of 64 characters.
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

fn der(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    BASE64_STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.3 and 10.1.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("evenkeel-key-{}-{name}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn keys_are_read_as_other_tools_write_them() {
        let dir = folder("pem");
        fs::write(dir.join("key"), PRIVATE).unwrap();
        let key = SigningKey::read(&dir.join("key")).unwrap();
        assert_eq!(key.public().to_pem(), PUBLIC);
        assert_eq!(PUBLIC.parse::<PublicKey>().unwrap(), key.public());
        assert_eq!(key.public().to_string().parse::<PublicKey>().unwrap(), key.public());
        fs::write(dir.join("pub"), format!("{}\n", key.public())).unwrap();
        let given = PublicKey::given(dir.join("pub").to_str().unwrap()).unwrap();
        assert_eq!(given, key.public());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_new_key_is_private_and_stays_the_same() {
        let dir = folder("new");
        let path = dir.join("keys/audit.key");
        let made = SigningKey::read_or_create(&path).unwrap().public();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(SigningKey::read_or_create(&path).unwrap().public(), made);
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(SigningKey::create(&path), Err(KeyError::Io { .. })), "never overwritten");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_signature_holds_for_its_text_and_key_only() {
        let dir = folder("sign");
        let key = SigningKey::create(&dir.join("a")).unwrap();
        let other = SigningKey::create(&dir.join("b")).unwrap();
        let signature = key.sign("text");
        assert!(key.public().signed("text", &signature));
        assert!(!key.public().signed("Text", &signature));
        assert!(!other.public().signed("text", &signature));
        assert!(!key.public().signed("text", "rubbish"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_key_says_what_to_give() {
        let error = PublicKey::given("no/such").unwrap_err().to_string();
        assert!(error.contains("`no/such` is neither a file nor"), "{error}");
        let dir = folder("rubbish");
        fs::write(dir.join("key"), PUBLIC).unwrap();
        let error = SigningKey::read(&dir.join("key")).unwrap_err().to_string();
        assert!(error.contains("is not an Ed25519 private key in PEM"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }
}
