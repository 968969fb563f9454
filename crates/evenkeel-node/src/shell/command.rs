//! Commands that run beside the program of a container.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    files::{SpecFile, read_json},
    shim::BESIDE,
};
use crate::images::{Image, Program};

/// How our own executable is started to run a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
}

impl Beside {
    /// For the run whose files are in `dir`.
    ///
    /// **Errors**: it has not been started, or its image does not list the command.
    pub(super) fn of(
        exe: &Path,
        shim_args: &[String],
        dir: &Path,
        command: &[String],
    ) -> Result<Self, String> {
        let program = command.first().ok_or("the command is empty")?;
        let spec: SpecFile =
            read_json(&dir.join("spec.json")).ok_or("the container has not been started")?;
        let image = Image {
            // Our own executable can do much more than the image: it is no command of one.
            program: if spec.name.is_some() { Program::Pause } else { Program::Host(spec.program) },
            args: Vec::new(),
            env: BTreeMap::new(),
            commands: spec.commands,
        };
        image.check_command(&spec.image, program).map_err(|error| error.to_string())?;
        let dir = dir.to_str().ok_or("the folder of the node has no readable name")?;
        let mut args = shim_args.to_vec();
        args.extend([BESIDE.to_owned(), dir.to_owned()]);
        args.extend(command.iter().cloned());
        Ok(Self { program: exe.to_owned(), args })
    }
}
