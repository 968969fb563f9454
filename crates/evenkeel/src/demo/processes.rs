//! The demo's processes: each one is real, started here, and ended by its own id.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Longest wait for the expected output of a process, or for its end.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// The processes that run, in the order in which they end.
#[derive(Default)]
pub(super) struct Processes {
    /// The load client.
    pub(super) load: Option<Child>,
    /// The controllers.
    pub(super) controllers: Option<Child>,
    /// The cluster: it ends its agents and their pods.
    pub(super) cluster: Option<Child>,
}

impl Processes {
    /// Ends them all.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        for child in [&mut self.load, &mut self.controllers, &mut self.cluster] {
            let Some(mut child) = child.take() else { continue };
            let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { continue };
            kill(Pid::from_raw(pid), Signal::SIGTERM).context("end a process")?;
            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                child.kill().await.context("kill a process")?;
            }
        }
        Ok(())
    }
}

/// Starts this program with these arguments.
pub(super) fn spawn(words: &[String], stdin: Stdio) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("find this program")?;
    Command::new(program)
        .args(words)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start evenkeel {}", words.join(" ")))
}

/// What a child prints, line by line.
pub(super) struct Said {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Said {
    /// Reads what a child prints.
    pub(super) fn of(child: &mut Child) -> anyhow::Result<Self> {
        let stdout = child.stdout.take().context("a child's stdout")?;
        Ok(Self { lines: BufReader::new(stdout).lines() })
    }

    /// What follows `prefix` on the first line that begins with it.
    pub(super) async fn after(&mut self, prefix: &str) -> anyhow::Result<String> {
        let search = async {
            while let Some(line) = self.lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Ok(rest.trim().to_owned());
                }
            }
            bail!("a process ended before it said {prefix:?}")
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .with_context(|| format!("nothing said {prefix:?} within {PATIENCE:?}"))?
    }

    /// Keeps the pipe from filling up.
    pub(super) fn keep_reading(mut self) {
        tokio::spawn(async move { while let Ok(Some(_)) = self.lines.next_line().await {} });
    }
}
