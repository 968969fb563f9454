//! `evenkeel demo`: the script of `sim::demo` in the real world.
//!
//! ```text
//! processes  started here, and ended whatever happens
//! stage      cluster, controllers and load client, ready to play on
//! clients    what the load client saw, second by second
//! host       how long this machine stalled meanwhile
//! phases     plays the script; `sim::demo::judge` makes the rows
//! ```

mod clients;
mod host;
mod phases;
mod processes;
mod stage;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use evenkeel_sim::demo::{report::Report, script::Pace};

use self::{
    processes::Processes,
    stage::{Settings, Stage},
};
use crate::{
    cli::{DemoArgs, Output, Safeguard},
    io,
    signals::stop_signal,
};

/// The real demo: processes, sockets, seconds. However it ends, nothing is left running.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_signal().context("listen for signals")?;
    let scratch = Scratch::new(args)?;
    let pace = if args.short { Pace::SHORT } else { Pace::REAL };
    let settings = Settings { pace, without: args.without };
    let mut processes = Processes::default();
    let played = tokio::select! {
        biased;
        () = stop => Err(anyhow::anyhow!("stopped before its end; nothing is left running")),
        played = play(&scratch.dir, settings, &mut processes) => played,
    };
    let ended = processes.end().await;
    let mut report = played?;
    if let Err(error) = ended {
        report.broken.get_or_insert_with(|| io::words(&error));
    }
    finish(args, &report)
}

async fn play(dir: &Path, settings: Settings, processes: &mut Processes) -> anyhow::Result<Report> {
    let mut stage = Stage::set(dir, settings, processes).await?;
    Ok(phases::play(&mut stage, settings).await)
}

/// The same script under virtual time.
pub(crate) fn virtual_run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let safeguards = evenkeel_sim::demo::Safeguards {
        retries: args.without != Some(Safeguard::Retries),
        drain: args.without != Some(Safeguard::Drain),
        confirmation: args.without != Some(Safeguard::Confirmation),
    };
    let outcome = evenkeel_sim::demo::run(args.seed, safeguards);
    if args.output == Output::Table {
        io::print(&outcome.trace);
    }
    finish(args, &outcome.report)
}

fn finish(args: &DemoArgs, report: &Report) -> anyhow::Result<ExitCode> {
    io::print(&match args.output {
        Output::Table => format!("\n{}", report.table()),
        Output::Json => report.json(),
        Output::Yaml => {
            serde_saphyr::to_string(&serde_json::from_str::<serde_json::Value>(&report.json())?)?
        }
    });
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The demo's folder; a temporary one goes when the demo ends.
struct Scratch {
    dir: PathBuf,
    temporary: bool,
}

impl Scratch {
    fn new(args: &DemoArgs) -> anyhow::Result<Self> {
        let (dir, temporary) = if let Some(dir) = &args.data_dir {
            (dir.clone(), false)
        } else {
            let name = format!("evenkeel-demo-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { dir: dir.canonicalize()?, temporary })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            io::complain(&format!("{} is left behind: {error}", self.dir.display()));
        }
    }
}
