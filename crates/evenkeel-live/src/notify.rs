use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_api::Key;
use evenkeel_control::{
    BoxFuture, Notification, Notifier, Provider, ProviderForm, ProviderTarget, Read, Timer,
    redact::{self, Secrets},
};
use futures::future::{Either, select};
use http::{HeaderMap, HeaderName, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use jiff::fmt::rfc2822;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    connector::OtherNetwork,
    hooks::{HttpClient, http_client, resolve},
    settings::AGENT,
    words::chain,
};

/// Notifications that wait for one provider. Beyond it new ones fail at once: a chat that is down
/// for an hour is not told an hour's worth of old news.
const WAITING_MAX: usize = 128;
/// Attempts per notification; with the pauses between them they outlast a restart of the receiver.
const ATTEMPTS_MAX: u32 = 7;
/// First pause between two attempts; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that a receiver may ask for (`Retry-After`).
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Identities of delivered notifications that are remembered per provider, so that a plan made again
/// does not send them twice. What failed or was given up may have arrived, and is sent again when
/// its plan is made again: a message that comes twice is better than one that is lost.
const SENT_MAX: usize = 1_024;
/// Bytes of an answer that are read.
const BODY_MAX: usize = 16 * 1_024;
/// A provider that nothing was sent to for this long is forgotten.
const IDLE_MAX: Duration = Duration::from_hours(1);
/// Errors of Slack's API that end by themselves.
const SLACK_LATER: [&str; 5] =
    ["ratelimited", "service_unavailable", "internal_error", "fatal_error", "request_timeout"];

type Done = oneshot::Sender<Result<(), String>>;

/// Delivers notifications to what Flagger's `AlertProvider`s name: Slack, Discord, Rocket.Chat,
/// Microsoft Teams, Google Chat, and plain webhooks.
///
/// Order is kept per provider. What fails is attempted seven times: that takes about two minutes at
/// most, or seven if the receiver asks for pauses (`Retry-After`). What is no longer awaited is
/// given up. The provider and its Secret are read for every attempt, so that a corrected one is used
/// at once.
///
/// **Source**: `pkg/notifier` of Flagger 1.44 for the shapes of the messages. `webhook` is ours.
pub struct ProviderNotifier {
    client: HttpClient,
    read: Arc<dyn Read>,
    timer: Arc<dyn Timer>,
    queues: Mutex<BTreeMap<Key, mpsc::Sender<(Notification, Done)>>>,
}

impl ProviderNotifier {
    /// Reads providers and their Secrets through `read`; waits by `timer`.
    ///
    /// **Errors**: the platform's certificates cannot be read.
    pub fn new(read: Arc<dyn Read>, timer: Arc<dyn Timer>) -> std::io::Result<Self> {
        Self::over(read, timer, None)
    }

    /// The same for a cluster whose Services have addresses in a network of their own.
    pub fn over(
        read: Arc<dyn Read>,
        timer: Arc<dyn Timer>,
        there: Option<Arc<dyn OtherNetwork>>,
    ) -> std::io::Result<Self> {
        Ok(Self { client: http_client(there)?, read, timer, queues: Mutex::default() })
    }

    fn queue(&self, provider: Key) -> mpsc::Sender<(Notification, Done)> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| !queue.is_closed());
        let queue = queues.entry(provider.clone()).or_insert_with(|| {
            let (queue, jobs) = mpsc::channel(WAITING_MAX);
            let channel = Channel {
                client: self.client.clone(),
                read: self.read.clone(),
                timer: self.timer.clone(),
                provider,
            };
            tokio::spawn(channel.work(jobs));
            queue
        });
        queue.clone()
    }
}

impl Notifier for ProviderNotifier {
    fn deliver(&self, notification: Notification) -> BoxFuture<'static, Result<(), String>> {
        let provider = Provider::key(&notification.namespace, &notification.provider);
        let (done, told) = oneshot::channel();
        let queued = match self.queue(provider.clone()).try_send((notification, done)) {
            // It has just been forgotten, and is there anew.
            Err(mpsc::error::TrySendError::Closed(job)) => {
                self.queue(provider.clone()).try_send(job).is_ok()
            }
            sent => sent.is_ok(),
        };
        Box::pin(async move {
            if !queued {
                return Err(format!("{WAITING_MAX} notifications wait for {provider} already"));
            }
            told.await.unwrap_or_else(|_| Err("this process is stopping".to_owned()))
        })
    }
}

/// The way to one provider: one notification after the other.
struct Channel {
    client: HttpClient,
    read: Arc<dyn Read>,
    timer: Arc<dyn Timer>,
    provider: Key,
}

/// Why an attempt failed.
enum Failure {
    /// Trying again may help, after this long if the receiver says so.
    Later(String, Option<Duration>),
    /// It will not.
    Final(String),
}

impl Failure {
    fn at(self, shown: &str) -> Self {
        match self {
            Self::Later(words, after) => Self::Later(format!("{shown} {words}"), after),
            Self::Final(words) => Self::Final(format!("{shown} {words}")),
        }
    }
}

impl Channel {
    async fn work(self, mut jobs: mpsc::Receiver<(Notification, Done)>) {
        let mut told = VecDeque::new();
        loop {
            let next = tokio::select! {
                biased;
                next = jobs.recv() => next,
                () = self.timer.sleep(IDLE_MAX) => {
                    jobs.close();
                    jobs.try_recv().ok()
                }
            };
            let Some((notification, mut done)) = next else { return };
            let outcome = if told.contains(&notification.id) {
                Ok(())
            } else {
                tokio::select! {
                    biased;
                    // Whoever asked has given it up and says so: it must not arrive later.
                    () = done.closed() => continue,
                    outcome = self.deliver(&notification) => outcome,
                }
            };
            if outcome.is_ok() {
                if told.len() == SENT_MAX {
                    told.pop_front();
                }
                told.push_back(notification.id);
            }
            // Whoever asked may have stopped waiting just now.
            done.send(outcome).unwrap_or_default();
        }
    }

    async fn deliver(&self, notification: &Notification) -> Result<(), String> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let sent = std::pin::pin!(self.attempt(notification));
            let failure = match select(sent, self.timer.sleep(ANSWER_MAX)).await {
                Either::Left((Ok(()), _)) => return Ok(()),
                Either::Left((Err(failure), _)) => failure,
                Either::Right(_) => {
                    Failure::Later(format!("no answer within {ANSWER_MAX:?}"), None)
                }
            };
            match failure {
                Failure::Final(problem) => return Err(problem),
                Failure::Later(problem, _) if attempt == ATTEMPTS_MAX => {
                    return Err(format!("{problem} ({attempt} attempts)"));
                }
                Failure::Later(_, asked) => {
                    self.timer.sleep(asked.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
        Ok(())
    }

    async fn attempt(&self, notification: &Notification) -> Result<(), Failure> {
        let target = self.target().await?;
        let uri: Uri =
            target.0.address.parse().map_err(|_| {
                Failure::Final(format!("{}: its address is not a URL", self.provider))
            })?;
        let shown = redact::url_host(&target.0.address);
        let resolved = resolve(&*self.read, &uri, &self.provider.namespace).await;
        let uri = match resolved {
            Ok(Some(uri)) => uri,
            Ok(None) => {
                let problem = format!("{}: no such Service for {shown}", self.provider);
                return Err(Failure::Later(problem, None));
            }
            Err(problem) => return Err(Failure::Later(problem, None)),
        };
        let mut request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, AGENT);
        if let Some(token) = &target.0.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = target.message(notification).to_string();
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Failure::Final(format!("{}: its token is not text", self.provider)))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| {
            let words = target.secrets().text(&chain(&error));
            Failure::Later(format!("{shown}: {words}"), None)
        })?;
        let status = answer.status();
        let after = retry_after(answer.headers());
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if status.is_success() {
            return target.taken(&body).map_err(|failure| failure.at(&shown));
        }
        let words = target.secrets().text(String::from_utf8_lossy(&body).trim());
        let problem = format!("{shown} answered {}: {words}", status.as_u16());
        if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) {
            Err(Failure::Later(problem, after))
        } else {
            Err(Failure::Final(problem))
        }
    }

    /// Where messages go now. What does not exist yet may be made soon.
    async fn target(&self) -> Result<Target, Failure> {
        let later = |problem: String| Failure::Later(problem, None);
        let found = self.read.get(&self.provider).await;
        let found = found.map_err(|error| later(redact::text(&error.to_string())))?;
        let found = found.ok_or_else(|| later(Provider::absent(&self.provider)))?;
        let provider = Provider::read(&found).map_err(Failure::Final)?;
        let mut kept = None;
        if let Some(key) = provider.secret() {
            let read = self.read.get(key).await;
            let read = read.map_err(|error| later(redact::about(key, &error.to_string())))?;
            kept = Some(read.ok_or_else(|| later(provider.without(key)))?);
        }
        provider.target(kept.as_deref()).map(Target).map_err(Failure::Final)
    }
}

/// How long a receiver asks us to wait: so many seconds, or until a date by its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    let asked = text(header::RETRY_AFTER)?;
    let wait = if let Ok(seconds) = asked.parse() {
        Duration::from_secs(seconds)
    } else {
        let until = rfc2822::parse(asked).ok()?.timestamp();
        let now = rfc2822::parse(text(header::DATE)?).ok()?.timestamp();
        Duration::try_from(until.duration_since(now)).ok()?
    };
    // At once is what it was asked before it said this.
    (!wait.is_zero()).then_some(wait)
}

/// Where a provider's messages go.
struct Target(ProviderTarget);

impl Target {
    /// What a receiver must not repeat. The path is the password of a chat's webhook.
    fn secrets(&self) -> Secrets {
        Secrets::of_whole_url(&self.0.address).and(self.0.token.as_deref().unwrap_or_default())
    }

    /// Whether an answer of status 200 means that the message was taken. Slack's API says in the
    /// body that it was not.
    fn taken(&self, body: &[u8]) -> Result<(), Failure> {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        if self.0.form != ProviderForm::Slack || said.get("ok") != Some(&Value::Bool(false)) {
            return Ok(());
        }
        let error = said.get("error").and_then(Value::as_str).unwrap_or("no reason");
        let words = format!("did not take the message: {}", self.secrets().text(error));
        if SLACK_LATER.contains(&error) {
            return Err(Failure::Later(words, None));
        }
        Err(Failure::Final(words))
    }

    fn message(&self, notification: &Notification) -> Value {
        let Notification { owner, severity, message, fields, .. } = notification;
        let facts = fields.iter();
        match self.0.form {
            ProviderForm::Slack => {
                let fields: Vec<_> = facts
                    .map(|(title, value)| json!({"title": title, "value": value, "short": false}))
                    .collect();
                let colour = if severity == "error" { "danger" } else { "good" };
                json!({"channel": self.0.channel, "username": self.0.username, "attachments": [{
                    "color": colour, "author_name": owner, "text": message,
                    "mrkdwn_in": ["text"], "fields": fields}]})
            }
            ProviderForm::Teams => {
                let facts: Vec<_> =
                    facts.map(|(name, value)| json!({"name": name, "value": value})).collect();
                let colour = if severity == "error" { "FF0000" } else { "0076D7" };
                json!({"@type": "MessageCard", "@context": "http://schema.org/extensions",
                    "themeColor": colour, "summary": format!("{owner}: {message}"),
                    "sections": [{"activityTitle": message, "activitySubtitle": owner,
                        "facts": facts}]})
            }
            ProviderForm::GoogleChat => {
                let facts = facts.map(|(name, value)| format!("\n{name}: {value}"));
                json!({"text": format!("*{owner}* {message}{}", facts.collect::<String>())})
            }
            ProviderForm::Webhook => {
                json!({"id": notification.id, "object": owner, "severity": severity,
                    "message": message, "fields": fields})
            }
        }
    }
}
