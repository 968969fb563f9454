//! `evenkeel audit`: looks at the record of what was done.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use evenkeel_guard::{
    Check, Dropped, Entry, Line, PublicKey, SigningKey, Summary, Torn, copy_of_head, read, verify,
};
use serde_json::{Value, json};

use crate::{
    cli::Output,
    door, io, paths,
    tools::{
        audit_args::{AuditCommand, KeyArgs, ShowArgs, VerifyArgs},
        audit_list,
        audit_source::Source,
        audit_unsound::{code, told_of},
    },
};

/// Runs `evenkeel audit ...`.
pub(crate) fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Verify(args) => check(args),
        AuditCommand::List(args) => audit_list::run(Source::existing(&args.source)?, args),
        AuditCommand::Show(args) => show(args),
        AuditCommand::Key(args) => key(args),
    }
}

fn check(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    // Without a record in it, that is what is found.
    let source = Source::open(&args.source)?;
    let key = args.key.as_deref().map(PublicKey::given).transpose()?;
    let copy = match &args.head {
        Some(file) => {
            Some(copy_of_head(file).with_context(|| format!("--head {}", file.display()))?)
        }
        None => None,
    };
    let check = Check { key: key.as_ref(), copy_of_head: copy.as_deref() };
    match verify(&source.dir, &check) {
        Ok(summary) => {
            io::print(&sound(&summary, key.is_some()));
            Ok(ExitCode::SUCCESS)
        }
        Err(unsound) => {
            io::complain(&told_of(&source.name, &unsound));
            Ok(code(&unsound))
        }
    }
}

/// What is said about a sound record.
fn sound(summary: &Summary, with_key: bool) -> String {
    let Summary { first, last, files, hash, .. } = summary;
    let files = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    let mut text = format!("lines {first} to {last} in {files}, intact; last hash {hash}\n");
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if let Some(Dropped { last, last_hash, .. }) = &summary.dropped {
        say(format!(
            "lines 1 to {last} were dropped as --audit-keep says, the last one {last_hash}"
        ));
    }
    if let Some(Torn { file, line, bytes }) = &summary.torn {
        say(format!(
            "{file} line {line}: torn, {bytes} bytes of it are there: the process died while it \
             wrote it, before it acted"
        ));
    }
    if summary.unsigned > 0 {
        say(format!(
            "{} lines are of format 1, without signatures of their own{}",
            summary.unsigned,
            if summary.key.is_some() { "; the signed lines after them vouch for them" } else { "" }
        ));
    }
    match &summary.key {
        Some(key) if with_key => say(format!("signed with {key}, the given key")),
        Some(key) => say(format!(
            "signed with {key}, the key that the record names itself: this finds only accidental \
             damage and\npartial edits. A record that was rewritten as a whole is found with --key \
             (see `evenkeel audit key`)."
        )),
        None => say("not signed: only accidental damage and partial edits are found".to_owned()),
    }
    text
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let source = Source::existing(&args.source)?;
    let (mut asked, mut outcome) = (None, None);
    let sound = read(&source.dir, |line| match &line.entry {
        Entry::Outcome { of, .. } if *of == Some(args.seq) => outcome = Some(line),
        _ if line.seq == args.seq => asked = Some(line),
        _ => {}
    });
    let Some(asked) = asked else {
        if let Err(unsound) = sound {
            io::complain(&told_of(&source.name, &unsound));
            return Ok(code(&unsound));
        }
        bail!("the record has no line {}: see `evenkeel audit list`", args.seq);
    };
    let all = json!({ "line": asked, "outcome": outcome });
    io::print(&match args.output {
        Output::Table => told(&asked, outcome.as_ref())?,
        Output::Json => serde_json::to_string(&all)?,
        Output::Yaml => serde_saphyr::to_string(&all)?,
    });
    Ok(match sound {
        Ok(()) => ExitCode::SUCCESS,
        Err(unsound) => {
            io::complain(&told_of(&source.name, &unsound));
            code(&unsound)
        }
    })
}

/// One line per field, what is written in full below.
fn told(asked: &Line, outcome: Option<&Line>) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    let mut body = None;
    for (part, line) in [("", Some(asked)), ("outcome.", outcome)] {
        let Some(line) = line else { continue };
        let Value::Object(fields) = serde_json::to_value(line)? else { continue };
        for (name, value) in fields {
            let text = match (&*name, value) {
                // Of no use to a person; in the JSON they are.
                ("v" | "kind" | "prev" | "sig" | "hash", _) => continue,
                ("body", Value::String(text)) => {
                    body = Some(text);
                    continue;
                }
                ("objections", Value::Array(all)) => {
                    rows.extend(all.iter().map(objection));
                    continue;
                }
                (_, Value::String(text)) => text,
                (_, other) => other.to_string(),
            };
            rows.push(format!("{:<18} {text}\n", format!("{part}{name}:")));
        }
    }
    if let Some(body) = body {
        // A truncated body is not valid JSON.
        let pretty = serde_json::from_str::<Value>(&body)
            .and_then(|body| serde_json::to_string_pretty(&body))
            .unwrap_or(body);
        rows.push(format!("body:\n{pretty}\n"));
    }
    Ok(rows.concat())
}

/// What one policy said.
fn objection(said: &Value) -> String {
    let text = |field: &str| said.get(field).and_then(Value::as_str).unwrap_or_default();
    let name = if text("verdict") == "allow" { "exception:" } else { "objection:" };
    format!("{name:<18} {} {}: {}\n", text("policy"), text("verdict"), text("reason"))
}

fn key(args: &KeyArgs) -> anyhow::Result<ExitCode> {
    let key = match (&args.create, &args.audit_key) {
        (Some(file), _) => SigningKey::create(file)?,
        (None, Some(file)) => SigningKey::read(file)?,
        (None, None) => {
            let file = door::key_file(&paths::existing_data_dir(args.data_dir.as_deref())?);
            if !file.exists() {
                bail!(
                    "{} does not exist: `evenkeel up` and `evenkeel run` create it at their first \
                     start, or name another key with --audit-key",
                    file.display()
                );
            }
            SigningKey::read(&file)?
        }
    };
    let public = key.public();
    io::print(&if args.pem { public.to_pem() } else { public.to_string() });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::audit_args::SourceArgs;

    #[test]
    fn a_sound_record_says_what_was_proven_and_what_was_not() {
        let key: PublicKey = "GbkECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=".parse().unwrap();
        let mut summary = Summary {
            first: 1,
            last: 7,
            files: 1,
            hash: "abc".to_owned(),
            torn: None,
            unsigned: 0,
            dropped: None,
            key: Some(key),
        };
        insta::assert_snapshot!(sound(&summary, true), @r"
        lines 1 to 7 in 1 file, intact; last hash abc
        signed with GbkECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=, the given key
        ");
        summary.first = 5;
        summary.torn = Some(Torn { file: "000001.jsonl".to_owned(), line: 4, bytes: 9 });
        summary.unsigned = 2;
        let last_hash = "def".to_owned();
        summary.dropped = Some(Dropped { first: 1, last: 4, lines: 4, files: 1, last_hash });
        insta::assert_snapshot!(sound(&summary, false), @r"
        lines 5 to 7 in 1 file, intact; last hash abc
        lines 1 to 4 were dropped as --audit-keep says, the last one def
        000001.jsonl line 4: torn, 9 bytes of it are there: the process died while it wrote it, before it acted
        2 lines are of format 1, without signatures of their own; the signed lines after them vouch for them
        signed with GbkECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=, the key that the record names itself: this finds only accidental damage and
        partial edits. A record that was rewritten as a whole is found with --key (see `evenkeel audit key`).
        ");
    }

    #[test]
    fn what_policies_said_is_told_in_a_line_each() {
        let line: Line = serde_json::from_value(json!({"v": 2, "seq": 1, "prev": "",
            "time": "2026-01-02T03:04:05Z", "kind": "ask", "controller": "delivery",
            "object": "Canary/shop/api", "verb": "scale", "action": "scale", "reason": "New",
            "direction": "riskier", "verdict": "allow", "objections": [
                {"policy": "budget", "verdict": "allow", "reason": "BreakGlass/fix by kim"},
                {"policy": "rate", "verdict": "hold", "reason": "too many"}]}))
        .unwrap();
        let told = told(&line, None).unwrap();
        for row in [
            "exception:         budget allow: BreakGlass/fix by kim\n",
            "objection:         rate hold: too many\n",
        ] {
            assert!(told.contains(row), "{told}");
        }
    }

    #[test]
    fn a_folder_without_a_record_says_what_to_name() {
        let of = |dir: &str| SourceArgs { data_dir: Some(dir.into()), record: None };
        let error = |dir: &str| Source::existing(&of(dir)).err().unwrap().to_string();
        assert_eq!(
            error("no/such"),
            "no/such does not exist: name the folder that `evenkeel up` or `evenkeel run` wrote to \
             (--data-dir)"
        );
        let without = error("src");
        assert!(
            without.starts_with("src has no audit record: nothing was done there yet"),
            "{without}"
        );
    }
}
