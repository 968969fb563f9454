//! Notifications to receivers that are slow, refuse, or are not there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    BoxFuture, ListQuery, Listed, Notification, Notifier as _, Read, StoreError, Timer, Watch,
};
use evenkeel_live::ProviderNotifier;
use futures::{StreamExt as _, future::join_all};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
};

use crate::support::{Reply, Server, soon};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A provider that nothing was sent to for this long is forgotten.
const IDLE_MAX: Duration = Duration::from_hours(1);
/// Notifications that wait for one provider behind the one that is being sent.
const WAITING_MAX: usize = 128;

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

/// Pauses pass at once and are noted. The longest wait for an answer is over as often as the test
/// says so, and the time after which a provider is forgotten.
struct Paced {
    pauses: Mutex<Vec<u64>>,
    over: Arc<Semaphore>,
    idle: Arc<Semaphore>,
}

impl Paced {
    fn new() -> Arc<Self> {
        let [over, idle] = [0, 0].map(|permits| Arc::new(Semaphore::new(permits)));
        Arc::new(Self { pauses: Mutex::default(), over, idle })
    }

    /// Those so far, in seconds.
    fn pauses(&self) -> Vec<u64> {
        self.pauses.lock().unwrap().clone()
    }
}

impl Timer for Paced {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let over = match wait {
            ANSWER_MAX => Some(self.over.clone()),
            IDLE_MAX => Some(self.idle.clone()),
            _ => None,
        };
        if let Some(over) = over {
            return Box::pin(async move { over.acquire().await.unwrap().forget() });
        }
        self.pauses.lock().unwrap().push(wait.as_secs());
        Box::pin(async {})
    }
}

/// A receiver that answers with these, then 200 for ever.
async fn receiver(answers: &'static [&'static str]) -> (SocketAddr, Got) {
    receiver_behind(&Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)), answers).await
}

/// The same; each answer has to be let through.
async fn receiver_behind(
    gate: &Arc<Semaphore>,
    answers: &'static [&'static str],
) -> (SocketAddr, Got) {
    let gate = gate.clone();
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
            gate.acquire().await.unwrap().forget();
            // A status, headers, each after a bar, and after a line break a body.
            let answer = answers.next().unwrap_or(&"200 OK");
            let (status, body) = answer.split_once('\n').unwrap_or((*answer, ""));
            let status = status.replace('|', "\r\n");
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
    paced(objects, &Paced::new())
}

fn paced(objects: Vec<Value>, time: &Arc<Paced>) -> ProviderNotifier {
    ProviderNotifier::new(Objects::of(objects), time.clone()).unwrap()
}

/// What was told so far, in a provider of type `webhook`.
fn messages(got: &Got) -> Vec<String> {
    let message = |(_, body): &(String, Value)| body["message"].as_str().unwrap().to_owned();
    got.lock().unwrap().iter().map(message).collect()
}

/// Waits until a receiver has got so many requests.
async fn reached(got: &Got, count: usize) {
    soon(async {
        while got.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_receiver_that_fails_for_a_while_gets_every_message_once_and_in_order() {
    let (address, got) = receiver(&["503 Unavailable", "429 Too Many Requests", "200 OK"]).await;
    let notifier = notifier(vec![provider("slack", &format!("http://{address}/services/pl4nted"))]);
    let (first, second) = (notification("1", "rolling back"), notification("2", "rolled back"));
    let all = [&first, &second, &first].map(|one| notifier.deliver(one.clone()));
    for outcome in join_all(all).await {
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

#[tokio::test]
async fn what_waits_for_a_receiver_is_bounded_and_stays_in_order() {
    let gate = Arc::new(Semaphore::new(0));
    let (address, got) = receiver_behind(&gate, &[]).await;
    let notifier = notifier(vec![provider("webhook", &format!("http://{address}/"))]);
    let tell = |number: usize| {
        let number = number.to_string();
        notifier.deliver(notification(&number, &number))
    };
    let mut told = vec![tell(0)];
    // It is on its way: nothing waits but what comes now.
    reached(&got, 1).await;
    told.extend((1..=WAITING_MAX).map(tell));
    let too_many = soon(tell(WAITING_MAX + 1)).await.unwrap_err();
    assert_eq!(too_many, "128 notifications wait for AlertProvider/shop/chat already");
    gate.add_permits(WAITING_MAX + 2);
    assert!(soon(join_all(told)).await.into_iter().all(|outcome| outcome == Ok(())));
    let numbers = |to: usize| (0..to).map(|number| number.to_string()).collect::<Vec<_>>();
    assert_eq!(messages(&got), numbers(WAITING_MAX + 1));
    // What was refused was not kept, and may be told once there is room.
    assert_eq!(soon(tell(WAITING_MAX + 1)).await, Ok(()));
    assert_eq!(messages(&got), numbers(WAITING_MAX + 2));
}

#[tokio::test]
async fn a_receiver_that_answers_nothing_is_given_up_and_holds_up_no_other() {
    let silent = Server::start(|_| Reply::Silence).await;
    let (address, got) = receiver(&[]).await;
    let mut other = provider("webhook", &format!("http://{address}/"));
    other["metadata"]["name"] = "mail".into();
    let time = Paced::new();
    let notifier = paced(vec![provider("webhook", &silent.url("/")), other], &time);
    let [first, second] = ["1", "2"].map(|id| notifier.deliver(notification(id, id)));
    silent.reached(1, |_| true).await;
    let elsewhere = Notification { provider: "mail".to_owned(), ..notification("3", "3") };
    assert_eq!(soon(notifier.deliver(elsewhere)).await, Ok(()));
    assert_eq!(messages(&got), ["3"]);
    for attempts in 1..=14 {
        silent.reached(attempts, |_| true).await;
        time.over.add_permits(1);
    }
    for given_up in [first, second] {
        let problem = soon(given_up).await.unwrap_err();
        assert_eq!(problem, "no answer within 10s (7 attempts)");
    }
    assert_eq!(time.pauses(), [1, 2, 4, 8, 16, 32, 1, 2, 4, 8, 16, 32]);
}

#[tokio::test]
async fn a_receiver_is_waited_for_as_long_as_it_asks() {
    let (address, got) = receiver(&[
        "429 Too Many Requests|Retry-After: 7",
        "503 Unavailable|Retry-After: Sun, 06 Nov 1994 08:49:49 GMT|\
         Date: Sun, 06 Nov 1994 08:49:37 GMT",
        // Longer than anybody waits for a chat.
        "503 Unavailable|Retry-After: 3600",
        // What follows says nothing of use.
        "503 Unavailable|Retry-After: 0",
        "503 Unavailable|Retry-After: Sun, 06 Nov 1994 08:49:49 GMT",
        "503 Unavailable|Retry-After: soon",
    ])
    .await;
    let time = Paced::new();
    let notifier = paced(vec![provider("webhook", &format!("http://{address}/"))], &time);
    assert_eq!(soon(notifier.deliver(notification("1", "m"))).await, Ok(()));
    assert_eq!(time.pauses(), [7, 12, 60, 8, 16, 32]);
    assert_eq!(got.lock().unwrap().len(), 7);
}

/// The run loop gives up what takes too long, and records it as failed.
#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_sent() {
    let gate = Arc::new(Semaphore::new(0));
    let (address, got) = receiver_behind(&gate, &[]).await;
    let notifier = notifier(vec![provider("webhook", &format!("http://{address}/"))]);
    let [first, second, third] = ["1", "2", "3"].map(|id| notifier.deliver(notification(id, id)));
    reached(&got, 1).await;
    drop(second);
    gate.add_permits(2);
    assert_eq!(soon(join_all([first, third])).await, [Ok(()), Ok(())]);
    assert_eq!(messages(&got), ["1", "3"]);
    // Nor is one attempted again that was on its way.
    let fourth = notifier.deliver(notification("4", "4"));
    reached(&got, 3).await;
    drop(fourth);
    gate.add_permits(2);
    assert_eq!(soon(notifier.deliver(notification("5", "5"))).await, Ok(()));
    assert_eq!(messages(&got), ["1", "3", "4", "5"]);
    // It is not known whether it arrived: told once more, it goes out again. What was delivered
    // does not.
    gate.add_permits(2);
    let again = ["4", "5"].map(|id| notifier.deliver(notification(id, id)));
    assert_eq!(soon(join_all(again)).await, [Ok(()), Ok(())]);
    assert_eq!(messages(&got), ["1", "3", "4", "5", "4"]);
}

#[tokio::test]
async fn a_provider_that_nothing_is_sent_to_is_forgotten_by_the_clock_of_its_host() {
    let (address, got) = receiver(&[]).await;
    let time = Paced::new();
    let notifier = paced(vec![provider("webhook", &format!("http://{address}/"))], &time);
    for _ in 0..3 {
        assert_eq!(soon(notifier.deliver(notification("1", "m"))).await, Ok(()));
    }
    assert_eq!(messages(&got), ["m"]);
    time.idle.add_permits(1);
    // Its identities are forgotten with it.
    soon(async {
        while messages(&got).len() < 2 {
            assert_eq!(notifier.deliver(notification("1", "m")).await, Ok(()));
            tokio::task::yield_now().await;
        }
    })
    .await;
}
