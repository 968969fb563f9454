//! Nobody sees what is not safe, and what fails has never been.

use evenkeel_api::Revision;
use evenkeel_control::{ListQuery, Read as _, Watch, WatchEvent};
use futures::{FutureExt as _, StreamExt as _, executor::block_on};
use insta::assert_snapshot;

use super::*;

/// What there is for readers: a list, its revision, and what a watch says.
fn seen(server: &ApiServer, kind: &GroupKind, watch: &mut Watch) -> String {
    let listed = block_on(server.list(&ListQuery::all(kind.clone()))).unwrap();
    let names: Vec<String> =
        listed.items.iter().map(|obj| format!("{}@{}", obj.name(), obj.revision())).collect();
    let mut told = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        told.push(match event.unwrap() {
            WatchEvent::Applied(obj) => format!("+{}", obj.name()),
            WatchEvent::Deleted(obj) => format!("-{}", obj.name()),
            WatchEvent::Synced => "=".to_owned(),
        });
    }
    format!("[{}] at {}, told {}", names.join(" "), listed.revision, told.join(" "))
}

/// Whether an answer is there, and which.
fn answer(waiting: &mut Answer) -> String {
    match waiting.as_mut().now_or_never() {
        None => "waits".to_owned(),
        Some(Ok(())) => "done".to_owned(),
        Some(Err(error)) => error.to_string(),
    }
}

#[test]
fn a_change_is_seen_and_answered_when_it_is_safe() {
    let (server, mut flusher) = open(Paper::default()).unwrap();
    let kind = GroupKind::new("", "ConfigMap");
    let mut watch = server.watch(ListQuery::all(kind.clone()));
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[] at 5, told =");
    let mut first = create(&server, config("a"));
    // It fails because of the first one, which may not be known yet.
    let mut second = create(&server, config("a"));
    assert_eq!([answer(&mut first), answer(&mut second)], ["waits", "waits"]);
    assert!(block_on(server.get(&key("ConfigMap", "a"))).unwrap().is_none());
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[] at 5, told ");
    flusher.flush().unwrap();
    assert_eq!(answer(&mut first), "done");
    assert!(answer(&mut second).contains("exists"));
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[a@6] at 6, told +a");
    // One that is changed, one that is removed, and one that comes before both.
    let mut rest = [
        merge(&server, &key("ConfigMap", "a"), json!({"data": {"x": "y"}})),
        create(&server, config("b")),
        delete(&server, &key("ConfigMap", "a")),
        create(&server, config("a")),
        create(&server, config("0")),
    ];
    assert_eq!(rest.each_mut().map(answer), ["waits"; 5]);
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[a@6] at 6, told ");
    let all = block_on(server.list(&ListQuery::all(kind.clone()))).unwrap();
    assert_eq!(all.items[0].json().get("data"), None);
    flusher.flush().unwrap();
    assert_eq!(rest.each_mut().map(answer), ["done"; 5]);
    let all = seen(&server, &kind, &mut watch);
    assert_snapshot!(all, @"[0@11 a@10 b@8] at 11, told +a +b -a +a +0");
}

#[test]
fn what_cannot_be_kept_has_never_been_and_writing_goes_on_when_there_is_room() {
    let paper = Paper::default();
    let (server, mut flusher) = open(paper.clone()).unwrap();
    let kind = GroupKind::new("", "ConfigMap");
    let mut watch = server.watch(ListQuery::all(kind.clone()));
    let mut kept = create(&server, config("kept"));
    assert_eq!(answer(&mut kept), "waits");
    flusher.flush().unwrap();
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[kept@6] at 6, told +kept =");
    paper.fill(true);
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"port": 80}], "clusterIP": "127.192.0.9"}})
    };
    let crd = evenkeel_api::crds().into_iter().next().unwrap();
    let mut lost = [
        create(&server, config("lost")),
        merge(&server, &key("ConfigMap", "kept"), json!({"data": {"x": "y"}})),
        delete(&server, &key("ConfigMap", "kept")),
        create(&server, service("lost")),
        create(&server, crd.clone()),
    ];
    assert_eq!(lost.each_mut().map(answer), ["waits"; 5]);
    let kinds = server.kinds().len();
    flusher.flush().unwrap_err();
    for answer in lost.each_mut().map(answer) {
        assert!(
            answer.contains(
                "nothing was changed: /data/state cannot grow: no space left; make room there, \
                 then it goes on by itself"
            ),
            "{answer}"
        );
    }
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[kept@6] at 6, told ");
    assert_eq!(server.kinds().len(), kinds);
    paper.fill(false);
    // Its address is free, its name as well, and revisions go on where they were seen last.
    let mut again =
        [create(&server, config("lost")), create(&server, service("other")), create(&server, crd)];
    assert_eq!(again.each_mut().map(answer), ["waits"; 3]);
    assert_eq!(server.kinds().len(), kinds, "a kind is not known before its definition is");
    flusher.flush().unwrap();
    assert_eq!(again.each_mut().map(answer), ["done"; 3]);
    assert_eq!(server.kinds().len(), kinds + 1);
    assert_snapshot!(seen(&server, &kind, &mut watch), @"[kept@6 lost@7] at 9, told +lost");
}

#[test]
fn events_and_renewals_do_not_wait_but_never_overtake() {
    let paper = Paper::default();
    let (server, mut flusher) = open(paper.clone()).unwrap();
    let event = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}})
    };
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l", "namespace": "default"}, "spec": {"holderIdentity": "a"}});
    let renewed = |holder: &str, second: u32| {
        json!({"spec": {"holderIdentity": holder,
            "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z")}})
    };
    let key = Key::new(GroupKind::new("coordination.k8s.io", "Lease"), "default", "l");
    assert_eq!(answer(&mut create(&server, event("a"))), "done");
    let mut taken = create(&server, lease);
    assert_eq!(answer(&mut taken), "waits");
    let mut behind = create(&server, event("b"));
    assert_eq!(answer(&mut behind), "waits");
    assert_eq!(server.revision(), Revision::from(6));
    flusher.flush().unwrap();
    assert_eq!([answer(&mut taken), answer(&mut behind)], ["done", "done"]);
    assert_eq!(answer(&mut merge(&server, &key, renewed("a", 1))), "done");
    let mut changed = merge(&server, &key, renewed("b", 2));
    assert_eq!(answer(&mut changed), "waits");
    // What was seen stays when the rest is undone, and is kept later.
    paper.fill(true);
    flusher.flush().unwrap_err();
    assert_eq!(server.revision(), Revision::from(9));
    paper.fill(false);
    flusher.flush().unwrap();
    let (again, _) = open(paper).unwrap();
    let found = block_on(again.get(&key)).unwrap().unwrap();
    assert_eq!(found.json()["spec"], renewed("a", 1)["spec"]);
}

#[test]
fn a_restart_goes_on_with_the_same_objects_and_new_revisions_and_uids() {
    let paper = Paper::default();
    let uids = |server: &Arc<ApiServer>, flusher: &mut Flusher, name: &str| {
        let mut made = create(server, config(name));
        assert_eq!(answer(&mut made), "waits");
        flusher.flush().unwrap();
        assert_eq!(answer(&mut made), "done");
        let found = block_on(server.get(&key("ConfigMap", name))).unwrap().unwrap();
        (found.uid().to_owned(), found.revision().clone())
    };
    let (first, mut flusher) = open(paper.clone()).unwrap();
    let one = uids(&first, &mut flusher, "one");
    let crd = evenkeel_api::crds().into_iter().next().unwrap();
    let mut defined = create(&first, crd);
    assert_eq!(answer(&mut defined), "waits");
    flusher.flush().unwrap();
    let (kinds, revision) = (first.kinds().len(), first.revision());
    let (second, mut flusher) = open(paper.clone()).unwrap();
    assert_eq!(second.kinds().len(), kinds);
    let found = block_on(second.get(&key("ConfigMap", "one"))).unwrap().unwrap();
    assert_eq!((found.uid().to_owned(), found.revision().clone()), one);
    // Who has seen the earlier process lists again.
    let query = ListQuery::all(GroupKind::new("", "ConfigMap"));
    let since = |revision: &Revision| revision.0.parse::<u64>().ok();
    let too_old = second.watch_since(&query, since(&revision)).err().unwrap();
    assert_eq!((too_old.code, too_old.reason), (410, "Expired"));
    assert!(second.watch_since(&query, since(&second.revision())).is_ok());
    let two = uids(&second, &mut flusher, "two");
    // Even without a single write no two processes draw the same.
    drop(open(paper.clone()).unwrap());
    let (third, mut flusher) = open(paper).unwrap();
    let three = uids(&third, &mut flusher, "three");
    assert!(one.0 != two.0 && two.0 != three.0 && one.0 != three.0);
    assert!(since(&revision) < since(&two.1) && since(&two.1) < since(&three.1));
}

#[test]
fn the_thread_writes_what_comes_and_answers_everybody_at_the_end() {
    let paper = Paper::default();
    let (server, flusher) = open(paper.clone()).unwrap();
    let keeper = flusher.start().unwrap();
    let many = (0..100).map(|n| create(&server, config(&format!("c{n}"))));
    assert!(block_on(futures::future::join_all(many)).iter().all(Result::is_ok));
    let mut event = config("e");
    event["kind"] = json!("Event");
    event["involvedObject"] = json!({"namespace": "default"});
    block_on(create(&server, event)).unwrap();
    drop(keeper);
    let late = block_on(create(&server, config("late"))).unwrap_err().to_string();
    assert!(late.contains("the server is stopping"), "{late}");
    let (again, _) = open(paper).unwrap();
    assert!(block_on(again.get(&key("Event", "e"))).unwrap().is_some());
    assert!(block_on(again.get(&key("ConfigMap", "c99"))).unwrap().is_some());
    assert!(block_on(again.get(&key("ConfigMap", "late"))).unwrap().is_none());
}
