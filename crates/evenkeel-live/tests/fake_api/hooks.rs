//! Webhooks and the built-in load tester, with manifests that ask for too much.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    BoxFuture, HookCall, HookReply, Hooks as _, ListQuery, Listed, Read, Replies as _, StoreError,
    Watch,
};
use evenkeel_live::HttpHooks;
use futures::{
    StreamExt as _,
    future::{Either, select},
};
use serde_json::json;

use crate::support::{Reply, Server, soon};

/// A cluster without objects: every name is outside of it.
struct Empty;

impl Read for Empty {
    fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async { Ok(Listed::default()) })
    }

    fn watch(&self, _: ListQuery) -> Watch {
        futures::stream::pending().boxed()
    }
}

fn hooks() -> HttpHooks {
    HttpHooks::new(Arc::new(Empty)).unwrap()
}

fn call(url: &str) -> HookCall {
    HookCall {
        owner: "Canary/x/a".to_owned(),
        id: "1".to_owned(),
        url: url.to_owned(),
        namespace: "x".to_owned(),
        body: BTreeMap::new(),
        timeout: Duration::from_millis(100),
        retries: 0,
        way_back: false,
    }
}

fn load_test(command: &str) -> HookCall {
    let body = BTreeMap::from([("metadata".to_owned(), json!({"type": "cmd", "cmd": command}))]);
    HookCall { body, ..call("http://flagger-loadtester/") }
}

async fn answer(hooks: &HttpHooks, call: &HookCall) -> HookReply {
    soon(hooks.call(call)).await.unwrap()
}

#[tokio::test]
async fn a_silent_receiver_is_asked_as_often_as_the_manifest_says() {
    let server = Server::start(|_| Reply::Silence).await;
    let call = HookCall { retries: 1, ..call(&server.url("/gate")) };
    let error = soon(hooks().call(&call)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("webhook {}: no answer within 100ms", server.url("/gate"))
    );
    assert_eq!(server.requests(|_| true).len(), 2);
    let agent = &server.requests(|_| true)[0].headers["user-agent"];
    assert_eq!(agent, concat!("evenkeel/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_a_failure() {
    let server = Server::start(|_| Reply::Silence).await;
    let hooks = hooks();
    let call = HookCall { timeout: Duration::from_mins(10), ..call(&server.url("/gate")) };
    {
        let mut under_way = hooks.call(&call);
        let reached = server.reached(1, |_| true);
        assert!(matches!(select(&mut under_way, Box::pin(reached)).await, Either::Right(_)));
        assert!(hooks.reply("1").is_none());
    }
    let error = hooks.reply("1").unwrap().unwrap_err();
    assert_eq!(error.problem, "given up before it had answered");
}

#[tokio::test]
async fn a_retry_ends_with_the_first_good_answer() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::Text(500, "not yet"),
        _ => Reply::Text(200, "yes"),
    })
    .await;
    let hooks = hooks();
    let call = HookCall { retries: u32::MAX, ..call(&server.url("/")) };
    assert_eq!(answer(&hooks, &call).await.body, "yes");
    assert_eq!(hooks.reply("1").unwrap().unwrap().body, "yes");
    assert_eq!(server.requests(|_| true).len(), 2);
}

#[tokio::test]
async fn a_load_test_sends_what_it_says_and_can_be_started_again() {
    let server = Server::start(|_| Reply::Text(200, "ok")).await;
    let hooks = hooks();
    let test = load_test(&format!("hey -n 10 -c 4 -q 1000 -m POST {}", server.url("/work")));
    assert_eq!(answer(&hooks, &test).await, reply(202, "started"));
    let got = server.reached(10, |request| request.path() == "/work").await;
    assert!(got.iter().all(|request| request.method == "POST"));
    // Its place is free again when it has ended, and not before.
    soon(async {
        while answer(&hooks, &test).await.body != "started" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let got = server.reached(20, |request| request.path() == "/work").await;
    assert_eq!(got.len(), 20);
}

#[tokio::test]
async fn no_command_line_ends_the_load_tester() {
    let hooks = hooks();
    for command in ["hey -q 1e-20 http://127.0.0.1:1/", "hey -q 5e9 http://127.0.0.1:1/"] {
        assert_eq!(answer(&hooks, &load_test(command)).await.status, 400, "{command}");
    }
    // These are read as they are, and come to nothing; the place is free again each time.
    for command in [
        "hey -n 1 http://unknown/",
        "hey -n 1 'http://[::1/'",
        "hey -n 1 -H 'Content-Length: x' http://127.0.0.1:1/",
    ] {
        let test = load_test(command);
        for _ in 0..2 {
            soon(async {
                while answer(&hooks, &test).await.body != "started" {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }
    let long = answer(&hooks, &load_test("hey -n 1 -t 7200 http://127.0.0.1:1/")).await;
    assert_eq!(long, reply(202, "started; -t 2h is cut to 1h"));
}

fn reply(status: u16, body: &str) -> HookReply {
    HookReply { status, body: body.to_owned() }
}
