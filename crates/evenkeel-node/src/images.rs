//! The image map: which program an image stands for. A manifest never chooses a host program.
//!
//! ```yaml
//! images:
//!   postgres:16:                       # exact name
//!     program: /usr/lib/postgresql/16/bin/postgres
//!     args: [-D, /srv/pg]              # `args` of a manifest take their place
//!     env: {LANG: C.UTF-8}
//!     commands: [/usr/bin/pg_isready]  # other programs its probes and hooks may run
//!   registry.example.com/shop/*:       # * matches any text; the longest pattern wins
//!     builtin: demo
//! ```
//! Built in are `evenkeel/demo:VERSION` and `evenkeel/pause`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Longest image map that is read, in bytes.
pub const MAP_BYTES_MAX: u64 = 1 << 20;

/// What images stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageMap {
    entries: BTreeMap<String, Entry>,
}

/// What one image stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The program.
    pub program: Program,
    /// Its arguments, unless the manifest gives some.
    pub args: Vec<String>,
    /// Environment that the manifest may override.
    pub env: BTreeMap<String, String>,
    /// Other programs that may run in the container; `*` is any.
    pub commands: Vec<String>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The demo workload, in our own executable.
    Demo,
    /// Waits for a signal to stop, in our own executable.
    Pause,
    /// A program of this machine.
    Host(PathBuf),
}

/// Why an image map was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageMapError {
    /// Not YAML, or not of the right shape.
    #[error("image map: {problem}")]
    Malformed {
        /// The parser's words, with line and field.
        problem: String,
    },
    /// An entry that makes no sense.
    #[error("image map: {image}: {problem}")]
    Entry {
        /// Its image.
        image: String,
        /// What to change.
        problem: &'static str,
    },
}

/// Where an image map lies, for saying what to write there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapFile<'a> {
    /// In no file.
    Nowhere,
    /// In this file.
    File(&'a Path),
    /// It would lie in this file, which is not there.
    NotThere(&'a Path),
}

/// An image that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownImage {
    /// The map has other images.
    #[error(
        "image {image:?} is not in the image map{place}; images are not pulled, add under images: \
         the line  {image:?}: {{program: /path/to/program, args: []}}"
    )]
    NotListed {
        /// The image.
        image: String,
        /// The map's file with a space before it, if it lies in one.
        place: String,
    },
    /// No image map exists.
    #[error(
        "image {image:?} is not built in, and there is no image map; images are not pulled, write \
         a file {} with the line  images: {{{image:?}: {{program: /path/to/program, args: []}}}}",
        place.display()
    )]
    NoMap {
        /// The image.
        image: String,
        /// The file to write.
        place: PathBuf,
    },
}

/// A command that the image map does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "command {command:?} is not allowed for image {image:?}: a manifest does not choose host \
     programs; add it to `commands` of the image in the image map"
)]
pub struct CommandRefused {
    command: String,
    image: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    images: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    builtin: Option<String>,
    program: Option<PathBuf>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    commands: Vec<String>,
}

impl ImageMap {
    /// Reads the YAML a user wrote.
    ///
    /// **Errors**: unknown fields, an entry with both or neither of `builtin` and `program`, an
    /// unknown built-in, a program without an absolute path.
    pub fn parse(yaml: &str) -> Result<Self, ImageMapError> {
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        let file: File = evenkeel_yaml::from_str(yaml)
            .map_err(|error| ImageMapError::Malformed { problem: error.to_string() })?;
        for (image, entry) in &file.images {
            let refuse = |problem| Err(ImageMapError::Entry { image: image.clone(), problem });
            match (&entry.builtin, &entry.program) {
                (Some(_), Some(_)) | (None, None) => {
                    return refuse("give exactly one of builtin and program");
                }
                (Some(name), None) if builtin(name).is_none() => {
                    return refuse("there is no such builtin (demo, pause)");
                }
                (None, Some(path)) if !path.is_absolute() => {
                    return refuse("program must be an absolute path");
                }
                _ => {}
            }
        }
        Ok(Self { entries: file.images })
    }

    /// What `image` stands for; `place` is for the message when it stands for nothing.
    pub fn resolve(&self, image: &str, place: MapFile<'_>) -> Result<Image, UnknownImage> {
        let by_pattern = || {
            let fitting = self.entries.iter().filter(|(pattern, _)| glob(pattern, image));
            fitting.max_by_key(|(pattern, _)| pattern.len()).map(|(_, entry)| entry)
        };
        let entry = self.entries.get(image).or_else(by_pattern);
        let (program, entry) = match entry {
            Some(entry) => {
                let host = || entry.program.clone().map(Program::Host);
                let program = entry.builtin.as_deref().and_then(builtin).or_else(host);
                (program, Some(entry))
            }
            None => (builtin_image(image), None),
        };
        let Some(program) = program else {
            let image = image.to_owned();
            let listed = |place| UnknownImage::NotListed { image: image.clone(), place };
            return Err(match place {
                MapFile::Nowhere => listed(String::new()),
                MapFile::File(place) => listed(format!(" {}", place.display())),
                MapFile::NotThere(place) => UnknownImage::NoMap { image, place: place.to_owned() },
            });
        };
        let mut env = BTreeMap::new();
        if program == Program::Demo {
            env.insert("VERSION".to_owned(), tag(image).to_owned());
        }
        env.extend(entry.into_iter().flat_map(|entry| entry.env.clone()));
        Ok(Image {
            program,
            args: entry.map(|entry| entry.args.clone()).unwrap_or_default(),
            env,
            commands: entry.map(|entry| entry.commands.clone()).unwrap_or_default(),
        })
    }
}

impl Image {
    /// Whether a manifest may have this run in the container.
    pub fn check_command(&self, image: &str, command: &str) -> Result<(), CommandRefused> {
        let is_own = matches!(&self.program, Program::Host(path) if path.as_os_str() == command);
        let listed = self.commands.iter().any(|allowed| allowed == "*" || allowed == command);
        if is_own || listed {
            return Ok(());
        }
        Err(CommandRefused { command: command.to_owned(), image: image.to_owned() })
    }
}

fn builtin(name: &str) -> Option<Program> {
    match name {
        "demo" => Some(Program::Demo),
        "pause" => Some(Program::Pause),
        _ => None,
    }
}

/// Images that are known without a map.
fn builtin_image(image: &str) -> Option<Program> {
    let name = image.strip_suffix(tag(image)).unwrap_or(image);
    match name.trim_end_matches(':') {
        "evenkeel/demo" => Some(Program::Demo),
        "evenkeel/pause" => Some(Program::Pause),
        _ => None,
    }
}

/// The tag of an image; `latest` when it has none.
fn tag(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

/// Whether `text` fits `pattern`, in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    const MAP: &str = "
images:
  postgres:16: {program: /usr/bin/postgres, args: [-D, /srv], commands: [/usr/bin/psql]}
  shop/*: {builtin: demo, env: {LATENCY_MS: '5'}}
  shop/db*: {builtin: pause}
  '*/odd:*-rc': {program: /bin/odd}
";

    fn resolved(image: &str) -> String {
        match ImageMap::parse(MAP).unwrap().resolve(image, MapFile::File(Path::new("images.yaml")))
        {
            Ok(image) => format!("{:?} {:?} {:?}", image.program, image.args, image.env),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn exact_names_win_over_patterns_and_longer_patterns_over_shorter() {
        assert_snapshot!(resolved("postgres:16"), @r#"Host("/usr/bin/postgres") ["-D", "/srv"] {}"#);
        assert_snapshot!(resolved("shop/cart:2.1"), @r#"Demo [] {"LATENCY_MS": "5", "VERSION": "2.1"}"#);
        assert_snapshot!(resolved("shop/db:1"), @"Pause [] {}");
        assert_snapshot!(resolved("a/odd:1-rc"), @r#"Host("/bin/odd") [] {}"#);
        assert_snapshot!(resolved("evenkeel/demo:3"), @r#"Demo [] {"VERSION": "3"}"#);
        assert_snapshot!(resolved("evenkeel/demo"), @r#"Demo [] {"VERSION": "latest"}"#);
        assert_snapshot!(resolved("evenkeel/pause:1"), @"Pause [] {}");
        assert_snapshot!(resolved("nginx:1.25"), @r#"image "nginx:1.25" is not in the image map images.yaml; images are not pulled, add under images: the line  "nginx:1.25": {program: /path/to/program, args: []}"#);
    }

    #[test]
    fn without_a_map_it_is_said_which_file_to_write() {
        let place = MapFile::NotThere(Path::new("/shop/images.yaml"));
        let error = ImageMap::default().resolve("nginx:1.25", place).unwrap_err().to_string();
        assert_snapshot!(error, @r#"image "nginx:1.25" is not built in, and there is no image map; images are not pulled, write a file /shop/images.yaml with the line  images: {"nginx:1.25": {program: /path/to/program, args: []}}"#);
        let (_, line) = error.split_once("the line  ").unwrap();
        assert!(ImageMap::parse(line).unwrap().resolve("nginx:1.25", place).is_ok());
        assert!(ImageMap::default().resolve("evenkeel/demo:1", place).is_ok());
    }

    #[test]
    fn a_bad_map_names_the_entry_and_the_fix() {
        let error = |yaml: &str| ImageMap::parse(yaml).unwrap_err().to_string();
        assert_snapshot!(error("images: {a: {}}"), @"image map: a: give exactly one of builtin and program");
        assert_snapshot!(error("images: {a: {builtin: x}}"), @"image map: a: there is no such builtin (demo, pause)");
        assert_snapshot!(error("images: {a: {program: sh}}"), @"image map: a: program must be an absolute path");
        assert!(error("images: {a: {programm: /bin/sh}}").contains("programm"));
        assert!(error("images: [").contains("image map"));
    }

    #[test]
    fn a_manifest_runs_only_what_the_map_allows() {
        let map = ImageMap::parse(MAP).unwrap();
        let postgres = map.resolve("postgres:16", MapFile::Nowhere).unwrap();
        assert!(postgres.check_command("postgres:16", "/usr/bin/psql").is_ok());
        assert!(postgres.check_command("postgres:16", "/usr/bin/postgres").is_ok());
        let error = postgres.check_command("postgres:16", "/bin/sh").unwrap_err();
        assert_snapshot!(error, @r#"command "/bin/sh" is not allowed for image "postgres:16": a manifest does not choose host programs; add it to `commands` of the image in the image map"#);
    }
}
