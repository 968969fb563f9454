//! The `evenkeel` binary: flags and wiring. Everything that decides lives in the crates below.

mod agent;
mod cli;
mod controllers;
mod demo;
mod diagnostics;
mod door;
mod durations;
mod gateway;
mod input;
mod install_flags;
mod io;
mod manage;
mod metric_servers;
mod metrics_probe;
mod network_arg;
mod paths;
mod run;
mod signals;
mod thread;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use evenkeel_control::redact;

/// What is logged unless `EVENKEEL_LOG` says otherwise: warnings, and leadership. The Kubernetes
/// client's own lines repeat what we log with the object and the next step.
const LOG_DEFAULT: &str = "warn,evenkeel_control::lease=info,evenkeel_control::predict=info,\
                           kube_client=off";
/// Exit code of a command that could not get an answer: 1 would be an answer.
pub(crate) const NOT_KNOWN: u8 = 2;

fn main() -> ExitCode {
    name_process();
    // The frequently started helpers come first: they run in many small processes and need none of
    // the rest.
    let words: Vec<String> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        Some("shim") => return evenkeel_node::shell::shim_main(words.into_iter().skip(2)),
        Some("workload") => return evenkeel_workload::main(|name| std::env::var(name).ok()),
        Some(up::TRY) => return up::try_main(),
        Some("load") => return evenkeel_workload::load::main(words.into_iter().skip(2)),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => return refused(&refusal),
    };
    log_to_stderr();
    redact::panics();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            io::complain(&format!("evenkeel: {}", io::words(&error)));
            if cli.command.asks() { ExitCode::from(NOT_KNOWN) } else { ExitCode::FAILURE }
        }
    }
}

/// What is wrong with the flags, or the help that was asked for. It quotes the arguments that it
/// does not know, which may be an address with a password.
fn refused(refusal: &clap::Error) -> ExitCode {
    let words = refusal.to_string();
    let masked = redact::whole(&words);
    if !refusal.use_stderr() || masked == words {
        refusal.exit();
    }
    io::complain(masked.trim_end());
    ExitCode::from(2)
}

/// What `ps` and `top` show, also of a process that was started through `/proc/self/exe`.
fn name_process() {
    // If it cannot be set, the process keeps its other name and works the same.
    std::fs::write("/proc/self/comm", "evenkeel").unwrap_or_default();
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Up(args) => {
            // Before there are threads.
            let network = up::prepare(args.network)?;
            runtime(2)?.block_on(up::up(args, network))
        }
        Command::Run(args) => runtime(1)?.block_on(run::run(args)),
        Command::Gateway(args) => runtime(1)?.block_on(gateway::run(args)),
        Command::Agent(args) => runtime(1)?.block_on(agent::run(args)),
        Command::Demo(args) if args.virtual_time => demo::virtual_run(args),
        Command::Demo(args) => runtime(1)?.block_on(demo::run(args)),
        Command::Promql(command) => tools::promql::run(command),
        Command::Slo(command) => tools::slo::run(command),
        Command::Audit(command) => tools::audit::run(command),
        Command::Snapshot(command) => tools::snapshot::run(command),
        Command::Alerts(args) => tools::alerts::run(args),
        Command::Why(args) => tools::why::run(args),
        Command::Install(args) => {
            tools::install::run(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Uninstall(args) => tools::install::uninstall::run(args),
        Command::Crds(args) => {
            tools::crds::run(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Chart { dir } => {
            tools::install::write_chart(dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(*shell, &mut command, "evenkeel", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        // Handled before the flags were read; listed so that help and completion know them.
        Command::Workload | Command::Load | Command::Shim | Command::TryNetwork => {
            Ok(ExitCode::from(2))
        }
    }
}

/// One thread is enough, and small, for everything but `up`, which serves others.
fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = if threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()
}

fn log_to_stderr() {
    use std::io::IsTerminal as _;
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_env("EVENKEEL_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(std::io::stderr)
        // Standard error may be on a full disk: a message about that would panic.
        .log_internal_errors(false)
        .init();
}
