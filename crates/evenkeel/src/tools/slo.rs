use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use evenkeel_slo::{
    AlertWindows, Catalogue, Finding, Input, LintReport, Options, PromDuration, SlothVerdict,
};

use crate::{
    cli::SloCommand,
    io::{complain, print},
};

/// Runs `evenkeel slo ...`.
pub(crate) fn run(command: &SloCommand) -> anyhow::Result<ExitCode> {
    match command {
        SloCommand::Generate {
            extra_labels,
            default_slo_period,
            slo_period_windows_path,
            files,
        } => {
            let options =
                options(extra_labels, default_slo_period, slo_period_windows_path.as_deref())?;
            Ok(match evenkeel_slo::generate(&read(files)?, &options) {
                Ok(output) => {
                    report(&output.findings);
                    print(&output.to_yaml());
                    ExitCode::SUCCESS
                }
                Err(findings) => refuse(&findings),
            })
        }
        SloCommand::Status(args) => super::slo_status::run(args),
        SloCommand::Lint { files } => {
            let report = evenkeel_slo::lint(&read(files)?, &Options::default());
            print(&lint_text(&report));
            Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        SloCommand::Export { sloth: _, files } => {
            Ok(match evenkeel_slo::export_sloth(&read(files)?, &Options::default()) {
                Ok((text, findings)) => {
                    report(&findings);
                    print(&text);
                    ExitCode::SUCCESS
                }
                Err(findings) => refuse(&findings),
            })
        }
    }
}

fn options(
    extra_labels: &[String],
    period: &str,
    windows: Option<&Path>,
) -> anyhow::Result<Options> {
    let mut options = Options::default();
    for pair in extra_labels {
        let Some((key, value)) = pair.split_once('=') else {
            bail!("--extra-labels {pair:?}: write it as key=value");
        };
        if evenkeel_slo::RESERVED_LABELS.contains(&key) {
            bail!(
                "--extra-labels {pair:?}: {key} is the label by which the rules and alerts of an \
                 SLO find its series: choose another name"
            );
        }
        options.extra_labels.insert(key.to_owned(), value.to_owned());
    }
    options.default_window = PromDuration::parse(period)
        .map_err(|error| anyhow::anyhow!("--default-slo-period {period:?}: {error}"))?;
    if let Some(dir) = windows {
        options.catalogue = catalogue(dir)?;
    }
    Ok(options)
}

/// The window catalogues of a folder; they replace the built-in ones.
fn catalogue(dir: &Path) -> anyhow::Result<Catalogue> {
    let listing = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in listing {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push(path);
        }
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| name.clone())?;
        let value = evenkeel_yaml::Node::parse(&text)
            .and_then(|node| node.json())
            .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        let windows = AlertWindows::from_value(&value)
            .map_err(|problem| anyhow::anyhow!("{name}: {problem}"))?;
        all.push(windows);
    }
    if all.is_empty() {
        bail!("{} has no AlertWindows file (*.yaml)", dir.display());
    }
    Ok(Catalogue::from_list(all))
}

pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    files
        .iter()
        .map(|file| {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
            Ok(Input { name, text })
        })
        .collect()
}

pub(super) fn report(findings: &[Finding]) {
    for finding in findings {
        complain(&finding.to_string());
    }
}

fn refuse(findings: &[Finding]) -> ExitCode {
    report(findings);
    ExitCode::FAILURE
}

fn lint_text(report: &LintReport) -> String {
    let mut lines = Vec::new();
    for object in &report.objects {
        lines.push(format!("{} {}", object.source, object.object));
        lines.push(match &object.sloth {
            SlothVerdict::Accepted => "  Sloth accepts it as written".to_owned(),
            SlothVerdict::Refused { message } => format!("  Sloth refuses it: {message}"),
        });
        // The findings below name file and line, too.
        let is_found = |kind: &str| report.findings.iter().any(|found| found.reason == kind);
        for condition in object.conditions.iter().filter(|it| !is_found(it.kind)) {
            let status = condition.status;
            lines.push(format!("  {}={status}: {}", condition.kind, condition.message));
        }
        if let Some(corrected) = &object.corrected {
            lines.push("  corrected, in a form that Sloth accepts:".to_owned());
            lines.extend(corrected.lines().map(|line| format!("    {line}")));
        }
    }
    lines.extend(report.findings.iter().map(ToString::to_string));
    lines.push(String::new());
    lines.join("\n")
}
