//! `ConfigMap`s and Secrets as files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};

/// Mode of files that do not name one. **Source**: `ConfigMapVolumeSourceDefaultMode` and others.
pub(crate) const MODE: i32 = 0o644;
/// Longest path in a volume. **Source**: `maxPathLength` in `pkg/volume/util/atomic_writer.go`.
const PATH_MAX: usize = 4096;
/// Longest name of a file. **Source**: `maxFileNameLength` there.
const NAME_MAX: usize = 255;
/// Most bytes of one volume: sixteen objects of the size that the API takes.
pub(crate) const BYTES_MAX: usize = 16 << 20;

/// The files of a volume, by path relative to it.
pub(crate) type Payload = BTreeMap<String, File>;

/// One file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl File {
    pub(crate) fn new(data: &[u8], mode: Option<i32>) -> Self {
        let mode = mode.unwrap_or(MODE).unsigned_abs() & 0o7777;
        Self { data: data.to_vec(), mode }
    }
}

/// Shows no content: it may be a Secret's.
impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:o} {} bytes", self.mode, self.data.len())
    }
}

/// Which keys of an object become files, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection<'a> {
    pub(crate) items: Option<&'a [KeyToPath]>,
    pub(crate) default_mode: Option<i32>,
    pub(crate) is_optional: bool,
}

impl Selection<'_> {
    /// **Source**: `MakePayload` in `pkg/volume/configmap` and `pkg/volume/secret`.
    fn take(
        &self,
        keys: &BTreeMap<&str, &[u8]>,
        missing: impl Fn(&str) -> String,
    ) -> Result<Payload, String> {
        let items = self.items.unwrap_or_default();
        let mut payload = Payload::new();
        if items.is_empty() {
            for (key, data) in keys {
                payload.insert((*key).to_owned(), File::new(data, self.default_mode));
            }
        }
        for item in items {
            match keys.get(item.key.as_str()) {
                Some(data) => {
                    let file = File::new(data, item.mode.or(self.default_mode));
                    payload.insert(item.path.clone(), file);
                }
                None if self.is_optional => {}
                None => return Err(missing(&item.key)),
            }
        }
        Ok(payload)
    }
}

/// The files of a `ConfigMap`; none when it is not there and need not be.
///
/// **Errors**: it is not there, or a key that was asked for.
pub(crate) fn config_map(
    name: &str,
    object: Option<&ConfigMap>,
    selection: Selection<'_>,
) -> Result<Payload, String> {
    let Some(object) = object else {
        return absent("configmap", name, selection.is_optional);
    };
    let text = object.data.iter().flatten();
    let mut keys: BTreeMap<&str, &[u8]> =
        text.map(|(key, text)| (key.as_str(), text.as_bytes())).collect();
    let bytes = object.binary_data.iter().flatten();
    keys.extend(bytes.map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())));
    selection.take(&keys, |key| format!("configmap references non-existent config key: {key}"))
}

/// The files of a Secret; none when it is not there and need not be.
///
/// **Errors**: it is not there, or a key that was asked for.
pub(crate) fn secret(
    name: &str,
    object: Option<&Secret>,
    selection: Selection<'_>,
) -> Result<Payload, String> {
    let Some(object) = object else {
        return absent("secret", name, selection.is_optional);
    };
    let bytes = object.data.iter().flatten();
    let keys = bytes.map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())).collect();
    selection.take(&keys, |key| format!("references non-existent secret key: {key}"))
}

fn absent(kind: &str, name: &str, is_optional: bool) -> Result<Payload, String> {
    if is_optional { Ok(Payload::new()) } else { Err(format!("{kind} \"{name}\" not found")) }
}

/// Whether these files may be written.
///
/// **Source**: `validatePath` in `pkg/volume/util/atomic_writer.go`.
pub(crate) fn check(payload: &Payload) -> Result<(), String> {
    let bytes: usize = payload.values().map(|file| file.data.len()).sum();
    if bytes > BYTES_MAX {
        return Err(format!("its files have {bytes} bytes together, more than {BYTES_MAX}"));
    }
    let mut before: Option<&str> = None;
    for path in payload.keys() {
        check_path(path)?;
        // In order of paths, what lies in a file comes right behind it, or behind its siblings.
        if let Some(file) = before
            && path.strip_prefix(file).is_some_and(|rest| rest.starts_with('/'))
        {
            return Err(format!("invalid path: {file} is a file and the folder of {path}"));
        }
        before = Some(path);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    let fail = |problem: &str| Err(format!("invalid path: {problem}"));
    if path.is_empty() {
        return fail("must not be empty: \"\"");
    }
    if path.starts_with('/') {
        return fail(&format!("must be relative path: {path}"));
    }
    if path.len() > PATH_MAX {
        return fail(&format!("must be less than or equal to {PATH_MAX} characters"));
    }
    for name in path.split('/') {
        if name == ".." {
            return fail(&format!("must not contain '..': {path}"));
        }
        if name.len() > NAME_MAX {
            return fail(&format!("filenames must be less than or equal to {NAME_MAX} characters"));
        }
    }
    if path.starts_with("..") {
        return fail(&format!("must not start with '..': {path}"));
    }
    Ok(())
}

/// The same path without empty parts and `.`: two that are the same file are one entry.
///
/// **Source**: `validatePayload`, which cleans paths.
pub(crate) fn clean(payload: Payload) -> Payload {
    let clean = |path: &str| {
        let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
        parts.collect::<Vec<_>>().join("/")
    };
    payload.into_iter().map(|(path, file)| (clean(&path), file)).collect()
}
