//! Circles of files inside a crate: module A uses items of B, and B (or what B uses) items of A.
//!
//! ```text
//! Source (a file)  --uses-->  paths by `use`, `crate::` and `super::`  --resolve-->  edges  -->  circles
//! ```
//! Files of a circle can only be read together. What a parent and its own submodules use of each
//! other does not count: a folder is read as one. Methods are not seen, only paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::paths::{self, Imported};

/// A circle that may stay, and why. It may get smaller, never larger.
pub(crate) struct Known {
    /// The crate's folder.
    pub(crate) krate: &'static str,
    /// Its files below `src`, sorted.
    pub(crate) files: &'static [&'static str],
    /// Why reading them together is right.
    pub(crate) reason: &'static str,
}

/// The circles that may stay.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        krate: "evenkeel",
        files: &["cli.rs", "tools/audit_args.rs"],
        reason: "flags that two commands share, beside the tool that is mostly meant",
    },
    Known {
        krate: "evenkeel",
        files: &["tools/slo.rs", "tools/slo_status.rs"],
        reason: "a command with one long subcommand; they share how SLO files are read",
    },
    Known {
        krate: "evenkeel-control",
        files: &["notices.rs", "ports.rs"],
        reason: "a port and what is sent through it; to be broken",
    },
    Known {
        krate: "evenkeel-gateway",
        files: &[
            "engine/endpoints.rs",
            "engine/matching.rs",
            "engine/request.rs",
            "engine/snapshot.rs",
        ],
        reason: "a request holds its snapshot, which holds the tables that requests are held against",
    },
    Known {
        krate: "evenkeel-gateway",
        files: &[
            "shell/answer.rs",
            "shell/client.rs",
            "shell/forward.rs",
            "shell/serve.rs",
            "shell/tcp.rs",
            "shell/worker.rs",
        ],
        reason: "the stages of one connection over the worker that owns it; the worker's state \
                 belongs into a file below them",
    },
    Known {
        krate: "evenkeel-gateway",
        files: &["shell/body.rs", "shell/wire.rs"],
        reason: "a message's head says how its body ends",
    },
    Known {
        krate: "evenkeel-live",
        files: &["hooks.rs", "load.rs"],
        reason: "the load tester answers in the words of a webhook",
    },
    Known {
        krate: "evenkeel-live",
        files: &["informer.rs", "shelf.rs", "store.rs"],
        reason: "the store's watch is an informer over the store's own list, kept on its shelf",
    },
    Known {
        krate: "evenkeel-promql",
        files: &["ast.rs", "functions.rs"],
        reason: "a call names its function, a function its argument types",
    },
    Known {
        krate: "evenkeel-promql",
        files: &[
            "engine/calls.rs",
            "engine/eval.rs",
            "engine/extended.rs",
            "engine/fold.rs",
            "engine/lengths.rs",
            "engine/range_calls.rs",
            "engine/rate.rs",
            "engine/window.rs",
        ],
        reason: "expressions contain expressions: the evaluator is one recursion",
    },
    Known {
        krate: "evenkeel-promql",
        files: &["rules/alert.rs", "rules/group.rs"],
        reason: "a group's pass hands its limits to its alerts",
    },
    Known {
        krate: "evenkeel-telemetry",
        files: &["intake.rs", "scrape.rs"],
        reason: "a scrape and what is taken from it; to be broken",
    },
    Known {
        krate: "evenkeel-telemetry",
        files: &["rules.rs", "telemetry.rs"],
        reason: "rules write into the telemetry that holds them; to be broken",
    },
];

/// A file of a crate: its path below `src`, and its text.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
}

/// Files that use each other, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Circle(pub(crate) Vec<String>);

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" <-> "))
    }
}

impl Known {
    fn holds(&self, circle: &Circle) -> bool {
        circle.0.iter().all(|file| self.files.contains(&&**file))
    }
}

/// Findings about one crate: circles that no entry of `known` holds, and entries that hold none.
pub(crate) fn check(krate: &str, sources: &[Source<'_>], known: &[Known]) -> Vec<String> {
    let own: Vec<&Known> = known.iter().filter(|entry| entry.krate == krate).collect();
    let found = circles(sources);
    let unknown = found.iter().filter(|circle| !own.iter().any(|entry| entry.holds(circle)));
    let mut findings: Vec<String> = unknown
        .map(|circle| {
            format!(
                "crates/{krate}/src: circle of files: {circle}; move what both need into a file \
                 of its own, or give a reason in xtask's circles.rs"
            )
        })
        .collect();
    for entry in own {
        if !found.iter().any(|circle| entry.holds(circle)) {
            let files = entry.files.join(" <-> ");
            findings.push(format!(
                "crates/{krate}/src: no circle any more: {files}; remove it from xtask's \
                 circles.rs ({})",
                entry.reason
            ));
        }
    }
    findings
}

/// A module's path from the crate's root.
type Module = Vec<String>;

/// Every circle of a crate.
fn circles(sources: &[Source<'_>]) -> Vec<Circle> {
    let crate_ = Crate::read(sources);
    let modules: Vec<&Module> = crate_.modules.keys().collect();
    let mut reach: Vec<BTreeSet<usize>> = modules
        .iter()
        .map(|from| {
            let targets = crate_.targets(from);
            (0..modules.len()).filter(|to| targets.contains(modules[*to])).collect()
        })
        .collect();
    for middle in 0..modules.len() {
        let beyond = reach[middle].clone();
        for from in &mut reach {
            if from.contains(&middle) {
                from.extend(&beyond);
            }
        }
    }
    let mut circles = Vec::new();
    let mut seen: BTreeSet<usize> = BTreeSet::new();
    for from in 0..modules.len() {
        if seen.contains(&from) {
            continue;
        }
        let both_ways = |to: &usize| reach[from].contains(to) && reach[*to].contains(&from);
        let members: Vec<usize> = (0..modules.len()).filter(both_ways).collect();
        seen.extend(&members);
        if members.len() > 1 {
            let files = members.iter().map(|at| crate_.modules[modules[*at]].file.clone());
            let mut files: Vec<String> = files.collect();
            files.sort();
            circles.push(Circle(files));
        }
    }
    circles
}

struct Parsed {
    file: String,
    /// What `use` brings in.
    imported: Vec<Imported>,
    /// Paths in the code that begin at `crate`, `super` or `self`.
    inline: Vec<Vec<String>>,
}

struct Crate {
    modules: BTreeMap<Module, Parsed>,
}

/// Imports that lead to imports, at most. Longer chains of re-exports do not occur.
const HOPS_MAX: usize = 8;

impl Crate {
    fn read(sources: &[Source<'_>]) -> Self {
        let modules = sources.iter().filter_map(|source| {
            let module = module_of(source.file)?;
            let code = paths::code(source.text);
            let (imported, inline) = paths::read(&code);
            Some((module, Parsed { file: source.file.to_owned(), imported, inline }))
        });
        Self { modules: modules.collect() }
    }

    /// Modules whose items `from` uses, its ancestors and descendants left out.
    fn targets(&self, from: &Module) -> BTreeSet<Module> {
        let parsed = &self.modules[from];
        let imported = parsed.imported.iter().map(|import| &import.path);
        let used = imported.chain(&parsed.inline);
        let found = used.filter_map(|path| self.resolve(from, path, HOPS_MAX));
        found.filter(|to| !to.starts_with(from) && !from.starts_with(to)).collect()
    }

    /// The module whose item a path names, seen from a module; `None` when it leads elsewhere.
    fn resolve(&self, from: &Module, path: &[String], hops: usize) -> Option<Module> {
        let mut at: Module = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => from.split_last()?.1.to_vec(),
            child => {
                let below = [from.as_slice(), &[child.to_owned()]].concat();
                self.modules.contains_key(&below).then_some(below)?
            }
        };
        for step in path.iter().skip(1) {
            if step == "super" {
                at.pop();
                continue;
            }
            let below = [at.as_slice(), std::slice::from_ref(step)].concat();
            if self.modules.contains_key(&below) {
                at = below;
                continue;
            }
            // An item of this module, unless the module has it from another one.
            let imports = self.modules.get(&at).map(|parsed| parsed.imported.as_slice());
            let import = imports.unwrap_or_default().iter().find(|import| import.name == *step);
            let further = import.filter(|_| hops > 0);
            return further
                .and_then(|import| self.resolve(&at, &import.path, hops - 1))
                .or(Some(at));
        }
        Some(at)
    }
}

/// The module of a file below `src`; `None` for tests.
fn module_of(file: &str) -> Option<Module> {
    let path = file.strip_suffix(".rs")?;
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    (!module.iter().any(|step| step == "tests")).then_some(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Circles of files, each a name and a text.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source { file, text }).collect();
        circles(&sources).iter().map(Circle::to_string).collect()
    }

    /// No more than now: a change that removes one lowers it.
    const KNOWN_MAX: usize = 13;
    /// Crates that have none, and get none.
    const FREE: [&str; 3] = ["evenkeel-cluster", "evenkeel-delivery", "evenkeel-slo"];

    #[test]
    fn known_circles_get_fewer_and_some_crates_have_none() {
        assert!(KNOWN.len() <= KNOWN_MAX, "{} circles are known", KNOWN.len());
        for entry in KNOWN {
            assert!(!FREE.contains(&entry.krate), "{}: {:?}", entry.krate, entry.files);
        }
    }

    #[test]
    fn files_that_use_each_other_are_a_circle() {
        let direct = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::Item;"),
            ("b.rs", "fn f() -> super::a::Other { todo() }"),
        ];
        assert_eq!(found(&direct), ["a.rs <-> b.rs"]);
        let over_three = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::{b, x::y};"),
            ("b.rs", "use crate::c::{Item, Other as Renamed};"),
            ("c/mod.rs", "use super::a::{self, Item};"),
        ];
        assert_eq!(found(&over_three), ["a.rs <-> b.rs <-> c/mod.rs"]);
    }

    #[test]
    fn a_folder_may_use_itself() {
        let files = [
            ("lib.rs", "mod a; pub use a::Item; use a::Other;"),
            ("a/mod.rs", "mod b; use b::Inner; pub struct Item;"),
            ("a/b.rs", "use super::Item; use crate::Error;"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn a_re_export_counts_as_its_source() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::{Item as Exported};"),
            ("a.rs", "use crate::b::Other;"),
            ("b.rs", "use crate::Exported;"),
        ];
        assert_eq!(found(&files), ["a.rs <-> b.rs"]);
    }

    #[test]
    fn tests_comments_and_texts_do_not_count() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::Item; #[cfg(test)] mod tests { use crate::b::X; fn f() {} }"),
            (
                "b.rs",
                "// crate::a::Item\n/// [`crate::a`]\nfn f() { \"crate::a::Item\"; '\"'; } \
                #[cfg(test)]\nmod tests { use crate::a::Item; }",
            ),
            ("b/tests.rs", "use crate::a::Item;"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn only_known_circles_pass() {
        let files = [("a.rs", "use crate::b::X;"), ("b.rs", "use crate::a::X;")];
        let sources = files.map(|(file, text)| Source { file, text });
        let known = |files| [Known { krate: "x", files, reason: "a reason" }];
        assert_eq!(check("x", &sources, &known(&["a.rs", "b.rs"])), Vec::<String>::new());
        assert_eq!(check("x", &sources, &known(&["a.rs", "b.rs", "c.rs"])), Vec::<String>::new());
        assert_eq!(check("y", &sources, &known(&["a.rs", "b.rs"])).len(), 1);
        assert_eq!(check("x", &sources, &known(&["a.rs", "c.rs"])).len(), 2, "one stale, one new");
    }
}
