//! Who acts on an object, in every case. The tables of `docs/beside-flagger-and-argo.md` are these.

use evenkeel_api::{
    Obj,
    beside::{Hand, MANAGED, Marks, Release},
};
use evenkeel_control::{DefinedBy, Manage, Neighbour, Seen, Standing, Steward};
use serde_json::json;

/// Who looks after a kind: `--manage`, the definition, what was seen of the other controller.
const KINDS: &str = "
all        *               *                                    evenkeel
auto       unknown         *                                    unknown
auto       ours            cannot-look                          unknown
auto       ours            not-found|not-here|no-replicas       evenkeel
auto       ours            runs                                 maybe
auto       theirs          runs|not-here|cannot-look            other
auto       theirs          not-found|no-replicas                maybe
annotated  ours            not-found|no-replicas                consent
annotated  ours            runs|not-here|cannot-look            maybe
annotated  theirs|unknown  runs|not-here|cannot-look            other
annotated  theirs|unknown  not-found|no-replicas                maybe
";

/// Who acts on an object: who looks after its kind, `evenkeel.dev/managed` (`gone`: it was there),
/// `spec.suspend` (`-`: the kind has none), whether it is being deleted, whose release is under way.
/// A release of ours that is under way is one that evenkeel began, or the deletion of what it began.
const OBJECTS: &str = "
unknown      *           *       *    *            nobody

evenkeel     never|gone  true    no   *            nobody: suspended
evenkeel     never|gone  true    yes  *            evenkeel
evenkeel     never|gone  false|- *    *            evenkeel
evenkeel     true        *       *    *            evenkeel

consent      true        *       *    *            evenkeel
consent      never|gone  true    no   ours         nobody: suspended
consent      never|gone  true    yes  ours         evenkeel
consent      never|gone  false|- *    ours         evenkeel
consent      never       *       *    none|theirs  nobody: observed
consent      gone        *       *    none|theirs  nobody: given back

maybe|other  true        true    no   theirs       nobody: release of another
maybe|other  true        true    no   none|ours    evenkeel: handed over
maybe|other  true        true    yes  *            evenkeel: handed over
maybe|other  true        -       *    none|ours    evenkeel: handed over
maybe|other  true        -       no   theirs       nobody: release of another
maybe|other  true        -       yes  theirs       evenkeel: handed over
maybe        true        false   no   ours         evenkeel
maybe        true        false   no   none|theirs  the other: in both hands
maybe        true        false   yes  *            the other: in both hands
other        true        false   *    *            the other: in both hands

maybe        never       true    no   ours         nobody: suspended
maybe        never       true    yes  ours         evenkeel
maybe        never       false|- *    ours         evenkeel
maybe        never       *       *    none|theirs  the other: observed
maybe        gone        *       *    *            the other: given back
other        never|gone  *       *    *            the other: given back
";

/// Rows of a table: what each column allows, and the answer.
fn rows(table: &str, columns: usize) -> Vec<(Vec<Vec<&str>>, String)> {
    let lines = table.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let cells = words.by_ref().take(columns);
            let cells = cells.map(|cell| cell.split('|').collect()).collect();
            (cells, words.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// The answer of the one row that a case fits.
fn answer(rows: &[(Vec<Vec<&str>>, String)], case: &[&str]) -> String {
    let fits = |cells: &[Vec<&str>]| {
        cells.iter().zip(case).all(|(cell, is)| cell.contains(&"*") || cell.contains(is))
    };
    let mut found = rows.iter().filter(|(cells, _)| fits(cells)).map(|(_, answer)| answer);
    let (first, more) = (found.next(), found.next());
    assert!(more.is_none(), "{case:?} fits two rows");
    first.unwrap_or_else(|| panic!("{case:?} fits no row")).clone()
}

/// Every combination of words.
fn cases<'a>(columns: &[&[&'a str]]) -> Vec<Vec<&'a str>> {
    columns.iter().fold(vec![Vec::new()], |all, column| {
        let longer = |case: &Vec<&'a str>| {
            let case = case.clone();
            column.iter().map(move |word| [&case[..], &[*word][..]].concat())
        };
        all.iter().flat_map(longer).collect()
    })
}

fn steward(manage: &str, definition: &str, seen: &str) -> Result<Steward, String> {
    let manage = match manage {
        "all" => Manage::All,
        "auto" => Manage::Auto,
        _ => Manage::Annotated,
    };
    let definition = match definition {
        "ours" => DefinedBy::Us,
        "theirs" => DefinedBy::Another,
        _ => DefinedBy::Unknown,
    };
    let seen = match seen {
        "runs" => Seen::Running { deployment: "Deployment/x/flagger".to_owned() },
        "no-replicas" => Seen::WithoutReplicas,
        "not-found" => Seen::NotFound,
        "not-here" => Seen::NotFoundHere,
        _ => Seen::CannotLook,
    };
    let crd = "canaries.flagger.app".to_owned();
    Steward::of(&Neighbour { name: "Flagger", crd, definition, seen }, manage)
}

fn marks(hand: &str, suspend: &str, deleting: &str, release: &str) -> Marks {
    Marks {
        hand: match hand {
            "true" => Hand::Over,
            "gone" => Hand::Back,
            _ => Hand::Never,
        },
        suspend: (suspend != "-").then_some(suspend == "true"),
        deleting: deleting == "yes",
        release: match release {
            "ours" => Release::Ours,
            "theirs" => Release::Theirs,
            _ => Release::None,
        },
    }
}

/// A steward, and what it leaves to evenkeel, in words.
fn words(steward: &Result<Steward, String>, marks: Marks) -> (&'static str, &'static str) {
    let kind = match steward {
        Err(_) => "unknown",
        Ok(Steward::Evenkeel) => "evenkeel",
        Ok(Steward::Consent { .. }) => "consent",
        Ok(Steward::Other { sure: false, .. }) => "maybe",
        Ok(Steward::Other { sure: true, .. }) => "other",
    };
    let alone = kind == "consent";
    let standing = steward.as_ref().ok().map(|steward| Standing::of(steward.clone(), &marks));
    let object = match standing {
        None => "nobody",
        Some(Standing::Ours) => "evenkeel",
        Some(Standing::Suspended) => "nobody: suspended",
        Some(Standing::HandedOver(_)) => "evenkeel: handed over",
        Some(Standing::InBothHands(_)) => "the other: in both hands",
        Some(Standing::ReleaseOfAnother(_)) => "nobody: release of another",
        Some(Standing::Observed { give_back: true, .. }) if alone => "nobody: given back",
        Some(Standing::Observed { give_back: false, .. }) if alone => "nobody: observed",
        Some(Standing::Observed { give_back: true, .. }) => "the other: given back",
        Some(Standing::Observed { give_back: false, .. }) => "the other: observed",
    };
    (kind, object)
}

#[test]
fn who_acts_in_every_case_is_said_by_one_row() {
    let (kinds, objects) = (rows(KINDS, 3), rows(OBJECTS, 5));
    let around = cases(&[
        &["all", "auto", "annotated"],
        &["ours", "theirs", "unknown"],
        &["runs", "no-replicas", "not-found", "not-here", "cannot-look"],
    ]);
    let each = cases(&[
        &["true", "never", "gone"],
        &["true", "false", "-"],
        &["no", "yes"],
        &["none", "ours", "theirs"],
    ]);
    for kind in &around {
        let steward = steward(kind[0], kind[1], kind[2]);
        for object in &each {
            let marks = marks(object[0], object[1], object[2], object[3]);
            let (of_kind, of_object) = words(&steward, marks);
            assert_eq!(answer(&kinds, kind), of_kind, "{kind:?}");
            let case = [&[of_kind][..], &object[..]].concat();
            assert_eq!(answer(&objects, &case), of_object, "{kind:?} {case:?}");
        }
    }
}

#[test]
fn the_marks_of_an_object_are_read_off_it() {
    let read = |kind: &str, managed: &str, more: serde_json::Value| {
        let mut body = json!({"apiVersion": format!("{kind}/v1"), "kind": "PrometheusServiceLevel",
            "metadata": {"name": "a", "namespace": "x", "annotations": {MANAGED: managed}}});
        if kind == "flagger.app" {
            body["kind"] = "Canary".into();
        }
        evenkeel_api::json::merge(&mut body, &more);
        Marks::of(&Obj::from_json(body).unwrap())
    };
    let canary = |managed: &str, more| read("flagger.app", managed, more);
    for not_true in ["", "false", "yes", "True"] {
        assert_eq!(canary(not_true, json!({})).hand, Hand::Never);
        let noted = json!({"status": {"evenkeel": {"handedOver": true}}});
        assert_eq!(canary(not_true, noted).hand, Hand::Back);
    }
    assert_eq!(canary("true", json!({})).hand, Hand::Over);
    assert_eq!(canary("", json!({})).suspend, Some(false));
    assert_eq!(canary("", json!({"spec": {"suspend": true}})).suspend, Some(true));
    let release = |phase: &str, applied: &str| {
        let status = json!({"phase": phase, "lastAppliedSpec": applied});
        canary("", json!({"status": status})).release
    };
    assert_eq!(release("Progressing", "ek1-0123"), Release::Ours);
    assert_eq!(release("Finalising", "5978589476"), Release::Theirs);
    assert_eq!(release("Progressing", ""), Release::None);
    assert_eq!(release("Succeeded", "ek1-0123"), Release::None);
    assert_eq!(release("Nonsense", "5978589476"), Release::None);
    let deleted = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"},
        "status": {"phase": "Succeeded", "lastAppliedSpec": "ek1-0123"}});
    let marks = canary("", deleted);
    assert!(marks.deleting && marks.release == Release::Ours);

    let slo = |more| read("sloth.slok.dev", "", more);
    assert_eq!(slo(json!({"spec": {"suspend": true}})).suspend, None);
    assert_eq!(slo(json!({"status": {"handedOver": true}})).hand, Hand::Back);
}
