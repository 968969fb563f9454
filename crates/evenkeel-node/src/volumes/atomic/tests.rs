use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-atomic-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Writes, but dies after `steps` steps. Whether it came to its end.
    fn write(&self, payload: &Payload, second: i64, mut steps: usize) -> Option<bool> {
        let now = Timestamp::from_second(1_700_000_000 + second).unwrap();
        let after = &mut |_| {
            steps = steps.checked_sub(1).ok_or_else(|| io::Error::other("killed"))?;
            Ok(())
        };
        Writer { dir: &self.0, now, group: None, after }.write(payload).ok()
    }

    /// What a container finds, by the names that it sees.
    fn seen(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![(self.0.clone(), String::new())];
        while let Some((dir, path)) = folders.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                // A link whose file is gone is a name without content.
                let Ok(meta) = fs::metadata(entry.path()) else { continue };
                if path.is_empty() && name.starts_with("..") {
                    continue;
                }
                if meta.is_dir() {
                    folders.push((entry.path(), format!("{path}{name}/")));
                } else {
                    let text = fs::read_to_string(entry.path()).unwrap();
                    files.insert(format!("{path}{name}"), text);
                }
            }
        }
        files
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn payload(files: &BTreeMap<String, String>) -> Payload {
    let file = |text: &String| File { data: text.clone().into_bytes(), mode: 0o644 };
    files.iter().map(|(path, text)| (path.clone(), file(text))).collect()
}

fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_volume_looks_as_upstream_makes_it() {
    let folder = Folder::new();
    let first = files(&[("a", "1"), ("sub/b", "2")]);
    assert_eq!(folder.write(&payload(&first), 0, 99), Some(true));
    assert_eq!(folder.names(), ["..2023_11_14_22_13_20.000000000", "..data", "a", "sub"]);
    let link = |name: &str| fs::read_link(folder.0.join(name)).unwrap();
    assert_eq!(link("a"), Path::new("..data/a"));
    assert_eq!(link("sub"), Path::new("..data/sub"));
    assert_eq!(link("..data"), Path::new("..2023_11_14_22_13_20.000000000"));
    // The same again changes nothing; another mode does.
    assert_eq!(folder.write(&payload(&first), 1, 99), Some(false));
    let mut private = payload(&first);
    private.get_mut("a").unwrap().mode = 0o400;
    assert_eq!(folder.write(&private, 2, 99), Some(true));
    assert_eq!(folder.names(), ["..2023_11_14_22_13_22.000000000", "..data", "a", "sub"]);
    let mode = fs::metadata(folder.0.join("a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
    // What is no more in it is no more seen.
    assert_eq!(folder.write(&payload(&files(&[("c", "3")])), 3, 99), Some(true));
    assert_eq!(folder.names(), ["..2023_11_14_22_13_23.000000000", "..data", "c"]);
    assert_eq!(folder.write(&Payload::new(), 4, 99), Some(true));
    assert_eq!(folder.names(), ["..2023_11_14_22_13_24.000000000", "..data"]);
}

#[test]
fn a_group_gets_to_read_what_it_shares() {
    let folder = Folder::new();
    let mut secret = payload(&files(&[("key", "s")]));
    secret.get_mut("key").unwrap().mode = 0o600;
    let group = Some(rustix::process::getgid().as_raw());
    let now = Timestamp::UNIX_EPOCH;
    let after = &mut |_| Ok(());
    Writer { dir: &folder.0, now, group, after }.write(&secret).unwrap();
    let mode = |name: &str| fs::metadata(folder.0.join(name)).unwrap().permissions().mode();
    assert_eq!(mode("key") & 0o7777, 0o640);
    assert_eq!(mode("..data") & 0o7777, 0o2755);
}

fn any_files() -> impl Strategy<Value = BTreeMap<String, String>> {
    let path = prop::sample::select(vec!["a", "b", "c", "sub/a", "sub/b", "deep/er/x"]);
    prop::collection::btree_map(path.prop_map(str::to_owned), "[a-z]{0,3}", 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    /// Killed between any two steps, a reader finds one version whole under the names that both
    /// have, and the next write brings what is wanted, with nothing left over.
    #[test]
    fn a_crash_leaves_the_old_or_the_new_files(old in any_files(), new in any_files()) {
        let marked = |files: &BTreeMap<String, String>, mark: &str| -> BTreeMap<String, String> {
            files.iter().map(|(path, text)| (path.clone(), format!("{mark}{text}"))).collect()
        };
        let (old, new) = (marked(&old, "old "), marked(&new, "new "));
        for steps in 0..40 {
            let folder = Folder::new();
            folder.write(&payload(&old), 0, 99).unwrap();
            let ended = folder.write(&payload(&new), 1, steps);
            let seen = folder.seen();
            let whole = |version: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
                // Names that only one version has may be shown late or hidden late.
                seen.iter().all(|(path, text)| version.get(path) == Some(text))
                    && version.keys().filter(|path| other.contains_key(*path))
                        .all(|path| seen.contains_key(path))
            };
            prop_assert!(whole(&old, &new) || whole(&new, &old), "{steps}: {seen:?}");
            folder.write(&payload(&new), 2, 99).unwrap();
            prop_assert_eq!(&folder.seen(), &new);
            let hidden = folder.names().iter().filter(|name| name.starts_with("..")).count();
            prop_assert_eq!(hidden, 2, "{:?}", folder.names());
            if ended.is_some() {
                break;
            }
        }
    }
}
