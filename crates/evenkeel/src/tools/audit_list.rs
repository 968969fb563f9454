//! `evenkeel audit list`: one line per action, with what became of it.

use std::{collections::BTreeMap, process::ExitCode, thread, time::Duration};

use anyhow::Context as _;
use evenkeel_guard::{Dropped, Entry, Follow, Line, Objected, read};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{
    cli::Output,
    io, runtime,
    signals::stop_signal,
    tools::{
        audit_args::ListArgs,
        audit_source::Source,
        audit_unsound::{code, told_of},
        object_name::ObjectName,
    },
};

/// Columns of a terminal that a row fits in.
const WIDTH: usize = 120;
/// How often a record is looked at while it is followed.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Looks after which an action is printed although it has no outcome yet.
const LOOKS_MAX: u32 = 20;
/// Heads of the columns, and how wide each may get. The last one takes what is left.
const COLUMNS: [(&str, usize); 7] = [
    ("SEQ", 8),
    ("TIME", 14),
    ("CONTROLLER", 10),
    ("OBJECT", 32),
    ("ACTION", 40),
    ("RESULT", 9),
    ("REASON", usize::MAX),
];
/// Widths of the columns when nobody knows what will come: 120 in all.
const FOLLOWED: [usize; 7] = [6, 14, 10, 20, 28, 9, 21];
/// The reason keeps this much; action and object give way.
const REASON_WIDTH_MIN: usize = 24;

/// An action as it is listed. What it writes is in `audit show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    seq: u64,
    time: Timestamp,
    late: bool,
    controller: String,
    object: String,
    verb: String,
    action: String,
    direction: String,
    verdict: String,
    /// Empty for what was not allowed; `unknown` when the record does not say.
    outcome: String,
    /// Reason of the plan.
    reason: String,
    /// Why it was held or denied, or what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objections: Vec<Objected>,
}

/// What a table is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// Rows fit in its lines, so cells are cut.
    Terminal,
    /// A file or another program: nothing is left out.
    Endless,
}

impl Page {
    fn of_output() -> Self {
        if io::is_terminal() { Self::Terminal } else { Self::Endless }
    }

    /// How much of a cell is written that should not be wider than this.
    fn most(self, width: usize) -> usize {
        if self == Self::Terminal { width } else { usize::MAX }
    }
}

/// Which actions are listed.
struct Filter {
    object: Option<ObjectName>,
    since: Option<Timestamp>,
}

/// Actions by number, with the outcomes that came so far.
#[derive(Default)]
struct Actions(BTreeMap<u64, Listed>);

pub(super) fn run(source: Source, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let since = args.since.and_then(|age| Timestamp::now().checked_sub(age).ok());
    let object = args.object.as_deref().map(ObjectName::parse).transpose()?;
    if let Some(object) = &object {
        object.is_acted_on()?;
    }
    let filter = Filter { object, since };
    if args.follow {
        return follow(source, args.output, filter);
    }
    let mut actions = Actions::default();
    let sound = read(&source.dir, |line| actions.take(line, &filter));
    let rows: Vec<Listed> = actions.0.into_values().collect();
    io::print(&match args.output {
        Output::Table => table(&rows, Page::of_output()),
        Output::Json => serde_json::to_string(&rows)?,
        Output::Yaml => serde_saphyr::to_string(&rows)?,
    });
    Ok(match sound {
        Ok(()) => ExitCode::SUCCESS,
        Err(unsound) => {
            io::complain(&format!(
                "{}; what follows is not listed",
                told_of(&source.name, &unsound)
            ));
            code(&unsound)
        }
    })
}

/// Prints every action once its outcome is known, or after a moment without. It ends when it is
/// told to, or when nobody reads it any more.
///
/// A thread of its own reads and prints. It waits for as long as a reader that is there takes
/// nothing; nobody waits for that thread.
fn follow(source: Source, output: Output, filter: Filter) -> anyhow::Result<ExitCode> {
    let runtime = runtime(1)?;
    let ended = runtime.block_on(async {
        let stop = stop_signal().context("listen for signals")?;
        let printing = tokio::task::spawn_blocking(move || print_new(source, output, &filter));
        tokio::select! {
            biased;
            () = stop => Ok(ExitCode::SUCCESS),
            () = io::reader_gone() => Ok(ExitCode::SUCCESS),
            ended = printing => ended.context("follow the record")?,
        }
    });
    runtime.shutdown_background();
    ended
}

fn print_new(mut source: Source, output: Output, filter: &Filter) -> anyhow::Result<ExitCode> {
    let mut record = Follow::new(&source.dir);
    let mut actions = Actions::default();
    let mut waiting: BTreeMap<u64, u32> = BTreeMap::new();
    let page = Page::of_output();
    let row = |cells: &[&str; 7]| row(cells, &FOLLOWED, page);
    if output == Output::Table && !io::try_print(&row(&COLUMNS.map(|(title, _)| title))) {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        source.refresh()?;
        let lines = match record.lines() {
            Ok(lines) => lines,
            Err(unsound) => {
                io::complain(&told_of(&source.name, &unsound));
                return Ok(code(&unsound));
            }
        };
        for line in lines {
            actions.take(line, filter);
        }
        let mut ready = Vec::new();
        for (seq, action) in &actions.0 {
            let looks = waiting.entry(*seq).or_default();
            *looks += 1;
            if action.outcome != UNKNOWN || *looks > LOOKS_MAX {
                ready.push(*seq);
            }
        }
        for seq in ready {
            waiting.remove(&seq);
            let Some(action) = actions.0.remove(&seq) else { continue };
            let text = match output {
                Output::Table => row(&action.cells().each_ref().map(String::as_str)),
                Output::Json => format!("{}\n", serde_json::to_string(&action)?),
                Output::Yaml => format!("---\n{}", serde_saphyr::to_string(&action)?),
            };
            if !io::try_print(&text) {
                return Ok(ExitCode::SUCCESS);
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Allowed, and nobody wrote down what became of it.
const UNKNOWN: &str = "unknown";

impl Actions {
    fn take(&mut self, line: Line, filter: &Filter) {
        let Line { seq, time, late, entry, .. } = line;
        let listed = match entry {
            Entry::Outcome { of, outcome, error } => {
                if let Some(action) = of.and_then(|of| self.0.get_mut(&of)) {
                    action.outcome = outcome;
                    action.why = error.or(action.why.take());
                }
                return;
            }
            Entry::Ask(asked) => {
                let outcome = if asked.verdict == "allow" { UNKNOWN } else { "" }.to_owned();
                Listed {
                    seq,
                    time,
                    late,
                    controller: asked.controller,
                    object: asked.object,
                    verb: asked.verb,
                    action: asked.action,
                    direction: asked.direction,
                    verdict: asked.verdict,
                    outcome,
                    reason: asked.reason,
                    why: asked.why,
                    objections: asked.objections,
                }
            }
            Entry::Lost { lines } => note(seq, time, format!("{lines} lines lost"), "RecordFull"),
            Entry::Dropped(Dropped { first, last, .. }) => {
                note(seq, time, format!("lines {first} to {last} dropped"), "Retention")
            }
            Entry::Checkpoint { .. } => return,
        };
        if filter.fits(&listed) {
            self.0.insert(seq, listed);
        }
    }
}

/// What the record says about itself.
fn note(seq: u64, time: Timestamp, action: String, reason: &str) -> Listed {
    Listed {
        seq,
        time,
        late: false,
        controller: "audit".to_owned(),
        object: String::new(),
        verb: String::new(),
        action,
        direction: String::new(),
        verdict: String::new(),
        outcome: String::new(),
        reason: reason.to_owned(),
        why: None,
        objections: Vec::new(),
    }
}

impl Filter {
    fn fits(&self, listed: &Listed) -> bool {
        let touches = |object: &ObjectName| {
            object.names(&listed.object)
                || listed.action.split_whitespace().any(|word| object.names(word))
        };
        self.object.as_ref().is_none_or(touches)
            && self.since.is_none_or(|since| listed.time >= since)
    }
}

impl Listed {
    fn cells(&self) -> [String; 7] {
        let time = self.time.to_zoned(TimeZone::UTC).strftime("%m-%d %H:%M:%S").to_string();
        let late = if self.late { "late: " } else { "" };
        // Why it did not happen is worth more than why it was to happen.
        let mut reason = format!("{late}{}", self.why.as_ref().unwrap_or(&self.reason));
        for exception in self.objections.iter().filter(|said| said.verdict == "allow") {
            reason = format!("{reason}, allowed by {}", exception.reason);
        }
        [
            self.seq.to_string(),
            time,
            self.controller.clone(),
            self.object.clone(),
            self.short_action(),
            self.result().to_owned(),
            reason,
        ]
    }

    /// Verdict and outcome in one word: what was not allowed has no outcome.
    fn result(&self) -> &str {
        match &*self.verdict {
            "hold" => "held",
            "deny" => "denied",
            "observe" => "observed",
            _ => &self.outcome,
        }
    }

    /// The action without what the object says already: namespace, name, and what follows from it.
    fn short_action(&self) -> String {
        // Format 1 kept what is written in the same text.
        let action = self.action.split_once(" {").map_or(&*self.action, |(action, _)| action);
        let [_, ns, name] = self.object.split('/').collect::<Vec<_>>()[..] else {
            return action.to_owned();
        };
        let (own, in_ns, part) = (format!("/{ns}/{name}"), format!("/{ns}/"), format!("{name}-"));
        let short = |word: &str| {
            if let Some(kind) = word.strip_suffix(&own) {
                return kind.to_owned();
            }
            // A weight: the name of a backend begins with that of its Canary.
            let weight = word.strip_prefix(&part).filter(|rest| rest.contains('='));
            weight.map_or_else(|| word.replacen(&in_ns, "/", 1), str::to_owned)
        };
        let words = action.split_whitespace().filter(|word| **word != self.object).map(short);
        let text = words.collect::<Vec<_>>().join(" ");
        match text.strip_prefix("set-weights HTTPRoute ") {
            Some(weights) => format!("weights {weights}"),
            None => text,
        }
    }
}

fn table(rows: &[Listed], page: Page) -> String {
    let rows: Vec<[String; 7]> = rows.iter().map(Listed::cells).collect();
    let mut widths = COLUMNS.map(|(title, _)| title.len());
    for cells in &rows {
        for ((width, cell), (_, max)) in widths.iter_mut().zip(cells).zip(COLUMNS) {
            *width = (*width).max(cell.chars().count().min(page.most(max)));
        }
    }
    let widths = if page == Page::Terminal { fit(widths) } else { widths };
    let head = row(&COLUMNS.map(|(title, _)| title), &widths, page);
    let body = rows.iter().map(|cells| row(&cells.each_ref().map(String::as_str), &widths, page));
    std::iter::once(head).chain(body).collect()
}

/// Makes columns narrow enough: the reason takes what is left, the action and then the object give
/// way when that is too little.
fn fit(mut widths: [usize; 7]) -> [usize; 7] {
    let [.., reason] = widths;
    let wanted = reason.min(REASON_WIDTH_MIN);
    let used = |widths: &[usize; 7]| widths.iter().take(6).map(|width| width + 2).sum::<usize>();
    for (column, min) in [(4, 20), (3, 16)] {
        let over = (used(&widths) + wanted).saturating_sub(WIDTH);
        widths[column] = widths[column].saturating_sub(over).max(min.min(widths[column]));
    }
    widths[6] = reason.min(WIDTH.saturating_sub(used(&widths)));
    widths
}

fn row(cells: &[&str; 7], widths: &[usize; 7], page: Page) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| {
        let text = on_one_line(cell, page.most(*width));
        format!("{text:<width$}")
    });
    format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
}

/// As much as fits, on one line.
fn on_one_line(text: &str, width: usize) -> String {
    let text = text.replace(['\n', '\t'], " ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use evenkeel_guard::Asked;

    use super::*;

    fn line(seq: u64, entry: Entry) -> Line {
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        Line {
            v: 2,
            seq,
            time,
            late: seq == 6,
            entry,
            prev: String::new(),
            sig: String::new(),
            hash: String::new(),
        }
    }

    fn ask(action: &str, verdict: &str, why: Option<&str>) -> Entry {
        Entry::Ask(Box::new(Asked {
            controller: "delivery".to_owned(),
            object: "Canary/default/api".to_owned(),
            verb: "patch".to_owned(),
            action: action.to_owned(),
            reason: "StepDue".to_owned(),
            direction: "riskier".to_owned(),
            verdict: verdict.to_owned(),
            why: why.map(str::to_owned),
            objections: Vec::new(),
            before: None,
            after: None,
            body: None,
        }))
    }

    fn outcome(of: u64, outcome: &str, error: Option<&str>) -> Entry {
        let error = error.map(str::to_owned);
        Entry::Outcome { of: Some(of), outcome: outcome.to_owned(), error }
    }

    fn listed(filter: &Filter) -> Vec<Listed> {
        let mut actions = Actions::default();
        let weights = "set-weights HTTPRoute/default/api api-primary=90 api-canary=10";
        let held = "shop/api/availability: BudgetBurning (burning); it goes on when the budget \
                    recovers, or with a BreakGlass";
        let entries = [
            ask(weights, "allow", None),
            outcome(1, "done", None),
            ask("scale Deployment/default/api to 3", "allow", None),
            outcome(3, "failed", Some("no answer from the API server")),
            ask(weights, "hold", Some(held)),
            ask("patch Canary/default/api {\"spec\":{\"a\":1}}", "allow", None),
            Entry::Dropped(Dropped {
                first: 1,
                last: 600,
                lines: 600,
                files: 1,
                last_hash: String::new(),
            }),
        ];
        for (seq, entry) in (1..).zip(entries) {
            actions.take(line(seq, entry), filter);
        }
        actions.0.into_values().collect()
    }

    #[test]
    fn one_line_says_what_was_done_and_what_became_of_it() {
        let rows = listed(&Filter { object: None, since: None });
        let table = table(&rows, Page::Terminal);
        insta::assert_snapshot!(table, @r"
        SEQ  TIME            CONTROLLER  OBJECT              ACTION                        RESULT   REASON
        1    01-02 03:04:05  delivery    Canary/default/api  weights primary=90 canary=10  done     StepDue
        3    01-02 03:04:05  delivery    Canary/default/api  scale Deployment to 3         failed   no answer from the API serv…
        5    01-02 03:04:05  delivery    Canary/default/api  weights primary=90 canary=10  held     shop/api/availability: Budg…
        6    01-02 03:04:05  delivery    Canary/default/api  patch                         unknown  late: StepDue
        7    01-02 03:04:05  audit                           lines 1 to 600 dropped                 Retention
        ");
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn an_exception_is_told_beside_the_reason() {
        let Entry::Ask(mut asked) = ask("scale Deployment/default/api to 3", "allow", None) else {
            panic!("an ask");
        };
        let said = |verdict: &str, reason: &str| Objected {
            policy: "budget".to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
        };
        asked.objections = vec![said("allow", "BreakGlass/fix by kim"), said("hold", "no")];
        let mut actions = Actions::default();
        actions.take(line(1, Entry::Ask(asked)), &Filter { object: None, since: None });
        let [.., reason] = actions.0[&1].cells();
        assert_eq!(reason, "StepDue, allowed by BreakGlass/fix by kim");
    }

    #[test]
    fn only_what_touches_an_object_or_is_recent() {
        let seqs = |object: Option<&str>, since: Option<&str>| -> Vec<u64> {
            let object = object.map(|object| ObjectName::parse(object).unwrap());
            let since = since.map(|since| since.parse().unwrap());
            listed(&Filter { object, since }).iter().map(|listed| listed.seq).collect()
        };
        assert_eq!(seqs(Some("Canary/default/api"), None), [1, 3, 5, 6]);
        assert_eq!(seqs(Some("canary/api"), None), [1, 3, 5, 6]);
        assert_eq!(seqs(Some("canaries/default/api"), None), [1, 3, 5, 6]);
        assert_eq!(seqs(Some("canary/other/api"), None), [0; 0]);
        assert_eq!(seqs(Some("Deployment/default/api"), None), [3]);
        assert_eq!(seqs(Some("deploy/api"), None), [3]);
        assert_eq!(seqs(Some("Deployment/default"), None), [0; 0]);
        assert_eq!(seqs(None, Some("2026-01-02T03:04:05Z")).len(), 5);
        assert_eq!(seqs(None, Some("2026-01-02T03:04:06Z")), [0; 0]);
    }

    #[test]
    fn the_widest_rows_fit() {
        let mut rows = listed(&Filter { object: None, since: None });
        rows[0].object = "Canary/a-rather-long-namespace/a-service-with-a-long-name".to_owned();
        rows[0].seq = 123_456_789;
        rows[0].controller = "postgres-failover".to_owned();
        let table = self::table(&rows, Page::Terminal);
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH), "{table}");
        // Where nobody looks at it, nothing is cut.
        let whole = self::table(&rows, Page::Endless);
        for row in rows.iter().flat_map(Listed::cells) {
            assert!(whole.contains(&row), "{row}: {whole}");
        }
        assert!(!whole.contains('…'), "{whole}");
        assert_eq!(FOLLOWED.iter().sum::<usize>() + 2 * (FOLLOWED.len() - 1), WIDTH);
    }
}
