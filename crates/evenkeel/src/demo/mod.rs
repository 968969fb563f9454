//! `evenkeel demo`: the script of `sim::demo` in the real world.
//!
//! ```text
//! stage    starts and ends the processes: cluster, controllers, load client
//! clients  what the load client saw, second by second
//! host     how long this machine stalled meanwhile
//! phases   plays the script; `sim::demo::judge` makes the rows
//! ```

mod clients;
mod host;
mod phases;
mod stage;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use evenkeel_sim::demo::report::Report;

use crate::{
    cli::{DemoArgs, Output, Safeguard},
    io,
};

/// The real demo: processes, sockets, seconds.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new(args)?;
    let mut stage = stage::Stage::set(&scratch.dir, args.without).await?;
    let mut report = phases::play(&mut stage, args.without).await;
    if let Err(error) = stage.clear().await {
        report.broken.get_or_insert_with(|| format!("{error:#}"));
    }
    finish(args, &report)
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
