//! Notifications to receivers that are slow, refuse, or are not there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    BoxFuture, ListQuery, Listed, Notification, Notifier as _, Read, StoreError, Watch,
};
use evenkeel_live::ProviderNotifier;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// A cluster of these objects.
struct Objects(BTreeMap<String, Arc<Obj>>);

impl Objects {
    fn of(bodies: Vec<Value>) -> Arc<Self> {
        let objects = bodies.into_iter().map(|body| {
            let obj = Obj::from_json(body).unwrap();
            (obj.key().to_string(), Arc::new(obj))
        });
        Arc::new(Self(objects.collect()))
    }
}

impl Read for Objects {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async { Ok(self.0.get(&key.to_string()).cloned()) })
    }
    fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async { Ok(Listed::default()) })
    }
    fn watch(&self, _: ListQuery) -> Watch {
        futures::stream::pending().boxed()
    }
}

/// What the receiver got: head and body of each request.
type Got = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver that answers with these, then 200 for ever.
async fn receiver(answers: &'static [&'static str]) -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = Got::default();
    let (seen, mut answers) = (got.clone(), answers.iter());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let (head, body) = loop {
                if stream.read_buf(&mut bytes).await.unwrap() == 0 {
                    return;
                }
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.to_ascii_lowercase();
                let length = length.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if body.len() >= length {
                    break (head.to_owned(), serde_json::from_str(body).unwrap());
                }
            };
            seen.lock().unwrap().push((head, body));
            // A status, and after a line break a body.
            let answer = answers.next().unwrap_or(&"200 OK");
            let (status, body) = answer.split_once('\n').unwrap_or((*answer, ""));
            let head = format!("Content-Length: {}\r\nConnection: close", body.len());
            let answer = format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, got)
}

fn provider(kind: &str, address: &str) -> Value {
    json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
        "metadata": {"name": "chat", "namespace": "shop"},
        "spec": {"type": kind, "channel": "ops", "address": address}})
}

fn notification(id: &str, message: &str) -> Notification {
    Notification {
        id: id.to_owned(),
        owner: "Canary/shop/api".to_owned(),
        namespace: "shop".to_owned(),
        provider: "chat".to_owned(),
        severity: "error".to_owned(),
        message: message.to_owned(),
        fields: vec![("Weight".to_owned(), "10 %".to_owned())],
    }
}

fn notifier(objects: Vec<Value>) -> ProviderNotifier {
    let notifier = ProviderNotifier::new(Objects::of(objects)).unwrap();
    notifier.pausing(Duration::from_millis(1))
}

#[tokio::test]
async fn a_receiver_that_fails_for_a_while_gets_every_message_once_and_in_order() {
    let (address, got) = receiver(&["503 Unavailable", "429 Too Many Requests", "200 OK"]).await;
    let notifier = notifier(vec![provider("slack", &format!("http://{address}/services/pl4nted"))]);
    let (first, second) = (notification("1", "rolling back"), notification("2", "rolled back"));
    let all = [&first, &second, &first].map(|one| notifier.deliver(one.clone()));
    for outcome in futures::future::join_all(all).await {
        assert_eq!(outcome, Ok(()));
    }
    let got = got.lock().unwrap();
    let texts: Vec<_> =
        got.iter().map(|(_, body)| body["attachments"][0]["text"].clone()).collect();
    assert_eq!(texts, ["rolling back", "rolling back", "rolling back", "rolled back"]);
    assert_eq!(got[0].1["channel"], "ops");
    assert_eq!(got[0].1["attachments"][0]["fields"][0]["title"], "Weight");
}

#[tokio::test]
async fn each_kind_of_provider_gets_its_own_form() {
    for (kind, path, field, value) in [
        ("discord", "/hook/slack ", "/attachments/0/color", "danger"),
        ("msteams", "/hook ", "/sections/0/activityTitle", "m"),
        ("gchat", "/hook ", "/text", "*Canary/shop/api* m\nWeight: 10 %"),
        ("webhook", "/hook ", "/object", "Canary/shop/api"),
    ] {
        let (address, got) = receiver(&[]).await;
        let notifier = notifier(vec![provider(kind, &format!("http://{address}/hook"))]);
        assert_eq!(notifier.deliver(notification("1", "m")).await, Ok(()));
        let got = got.lock().unwrap();
        assert!(got[0].0.starts_with(&format!("POST {path}HTTP/1.1")), "{kind}: {}", got[0].0);
        assert_eq!(got[0].1.pointer(field).unwrap(), value, "{kind}");
    }
}

#[tokio::test]
async fn an_answer_that_says_no_in_its_body_is_no_delivery() {
    let (address, got) = receiver(&[
        "200 OK\n{\"ok\":false,\"error\":\"ratelimited\"}",
        "200 OK\n{\"ok\":true}",
        "200 OK\n{\"ok\":false,\"error\":\"channel_not_found\"}",
        "200 OK\nok",
    ])
    .await;
    let notifier = notifier(vec![provider("slack", &format!("http://{address}/api"))]);
    assert_eq!(notifier.deliver(notification("1", "m")).await, Ok(()));
    let problem = notifier.deliver(notification("2", "m")).await.unwrap_err();
    assert!(problem.ends_with("did not take the message: channel_not_found"), "{problem}");
    // It was not delivered: told once more it goes out again.
    assert_eq!(notifier.deliver(notification("2", "m")).await, Ok(()));
    assert_eq!(got.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_cannot_be_delivered_says_why_and_nothing_secret() {
    let (address, got) = receiver(&[
        "404 Not Found\nCannot POST /services/pl4nted?key=pl4nted2",
        "401 Unauthorized\n{\"error\":\"invalid token pl4nted\\/3 of PL4NTED2\"}",
        "200 OK\n{\"ok\":false,\"error\":\"pl4nted/3 is not_authed\"}",
    ])
    .await;
    let secret = |data: Value| {
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "hook", "namespace": "shop"}, "data": data})
    };
    let mut by_secret = provider("slack", "");
    by_secret["spec"]["secretRef"] = json!({"name": "hook"});
    let encoded = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let hidden = json!({"token": encoded("pl4nted/3"),
        "address": encoded(&format!("http://{address}/services/pl4nted?key=pl4nted2"))});
    let told = || vec![by_secret.clone(), secret(hidden.clone())];
    let cases = [
        (told(), "answered 404: Cannot POST /***?***"),
        (told(), "answered 401: {\"error\":\"invalid token *** of ***\"}"),
        (told(), "did not take the message: *** is not_authed"),
        (vec![by_secret.clone(), secret(json!({}))], "has no address"),
        (
            vec![provider("pager", "http://127.0.0.1:1/pl4nted")],
            "is not supported; use one of slack",
        ),
        (vec![provider("slack", "http://127.0.0.1:1/pl4nted")], "7 attempts"),
        (Vec::new(), "does not exist"),
    ];
    for (objects, expected) in cases {
        let problem = notifier(objects).deliver(notification("1", "m")).await.unwrap_err();
        let hides = !problem.to_ascii_lowercase().contains("pl4nted");
        assert!(problem.contains(expected) && hides, "{problem}");
    }
    assert_eq!(got.lock().unwrap().len(), 3);
}
