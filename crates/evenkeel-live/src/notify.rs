use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_api::{GroupKind, Key};
use evenkeel_control::{
    BoxFuture, Notification, Notifier, PROVIDER_TYPES, Read,
    redact::{self, Secrets},
};
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::AGENT,
    hooks::{HttpClient, http_client, resolve},
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
/// Identities remembered per provider, so that a plan made again does not tell twice.
const TOLD_MAX: usize = 1_024;
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
/// Order is kept per provider; what fails is tried again for about two minutes. The provider and
/// its Secret are read for every attempt, so that a corrected one is used at once.
///
/// **Source**: `pkg/notifier` of Flagger 1.44 for the shapes of the messages. `webhook` is ours.
pub struct ProviderNotifier {
    client: HttpClient,
    read: Arc<dyn Read>,
    pause: Duration,
    queues: Mutex<BTreeMap<Key, mpsc::Sender<(Notification, Done)>>>,
}

impl ProviderNotifier {
    /// Reads providers and their Secrets through `read`.
    ///
    /// **Errors**: the platform's certificates cannot be read.
    pub fn new(read: Arc<dyn Read>) -> std::io::Result<Self> {
        let client = http_client()?;
        Ok(Self { client, read, pause: PAUSE, queues: Mutex::default() })
    }

    /// With another first pause between attempts.
    #[must_use]
    pub fn pausing(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    fn queue(&self, provider: Key) -> mpsc::Sender<(Notification, Done)> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| !queue.is_closed());
        let queue = queues.entry(provider.clone()).or_insert_with(|| {
            let (queue, jobs) = mpsc::channel(WAITING_MAX);
            let channel = Channel {
                client: self.client.clone(),
                read: self.read.clone(),
                provider,
                pause: self.pause,
            };
            tokio::spawn(channel.work(jobs));
            queue
        });
        queue.clone()
    }
}

impl Notifier for ProviderNotifier {
    fn deliver(&self, notification: Notification) -> BoxFuture<'static, Result<(), String>> {
        let kind = GroupKind::new("flagger.app", "AlertProvider");
        let provider = Key::new(kind, &notification.namespace, &notification.provider);
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
    provider: Key,
    pause: Duration,
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
            let next = tokio::time::timeout(IDLE_MAX, jobs.recv()).await;
            let next = next.unwrap_or_else(|_| {
                jobs.close();
                jobs.try_recv().ok()
            });
            let Some((notification, done)) = next else { return };
            let outcome = if told.contains(&notification.id) {
                Ok(())
            } else {
                self.deliver(&notification).await
            };
            if outcome.is_ok() {
                if told.len() == TOLD_MAX {
                    told.pop_front();
                }
                told.push_back(notification.id);
            }
            // Whoever asked may have stopped waiting.
            done.send(outcome).unwrap_or_default();
        }
    }

    async fn deliver(&self, notification: &Notification) -> Result<(), String> {
        let mut pause = self.pause;
        for attempt in 1.. {
            let sent = tokio::time::timeout(ANSWER_MAX, self.attempt(notification)).await;
            let failure = match sent {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Later(format!("no answer within {ANSWER_MAX:?}"), None),
            };
            match failure {
                Failure::Final(problem) => return Err(problem),
                Failure::Later(problem, _) if attempt == ATTEMPTS_MAX => {
                    return Err(format!("{problem} ({attempt} attempts)"));
                }
                Failure::Later(_, asked) => {
                    tokio::time::sleep(asked.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
        Ok(())
    }

    async fn attempt(&self, notification: &Notification) -> Result<(), Failure> {
        let target = Target::read(&*self.read, &self.provider).await?;
        let uri: Uri = target
            .address
            .parse()
            .map_err(|_| Failure::Final(format!("{}: its address is not a URL", self.provider)))?;
        let shown = redact::url_host(&target.address);
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
        if let Some(token) = &target.token {
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
        let after = answer.headers().get(header::RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if status.is_success() {
            return target.taken(&body).map_err(|failure| failure.at(&shown));
        }
        let words = target.secrets().text(String::from_utf8_lossy(&body).trim());
        let problem = format!("{shown} answered {}: {words}", status.as_u16());
        if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) {
            Err(Failure::Later(problem, after.map(Duration::from_secs)))
        } else {
            Err(Failure::Final(problem))
        }
    }
}

/// Where a provider's messages go, and in which form.
struct Target {
    form: Form,
    address: String,
    token: Option<String>,
    channel: String,
    username: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Slack's, which Discord and Rocket.Chat take, too.
    Slack,
    Teams,
    GoogleChat,
    Webhook,
}

impl Target {
    async fn read(read: &dyn Read, provider: &Key) -> Result<Self, Failure> {
        let found = read.get(provider).await;
        let found =
            found.map_err(|error| Failure::Later(redact::text(&error.to_string()), None))?;
        let Some(found) = found else {
            let hint = "create it, or correct providerRef in the Canary's alerts";
            return Err(Failure::Later(format!("{provider} does not exist: {hint}"), None));
        };
        let text = |path: &str| {
            found.json().pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if !text("/spec/proxy").is_empty() {
            let problem = format!("{provider}: spec.proxy is not supported: remove it");
            return Err(Failure::Final(problem));
        }
        let (mut address, mut token) = (text("/spec/address"), None);
        let secret = text("/spec/secretRef/name");
        if !secret.is_empty() {
            let key = provider.sibling::<Secret>(&secret);
            let read = read.get(&key).await;
            let read = read
                .map_err(|error| Failure::Later(redact::about(&key, &error.to_string()), None))?;
            let Some(read) = read else {
                return Err(Failure::Later(format!("{key} of {provider} does not exist"), None));
            };
            let data = read.get::<Secret>().ok().and_then(|secret| secret.data.clone());
            let field = |name: &str| {
                let bytes = data.as_ref()?.get(name)?;
                Some(String::from_utf8_lossy(&bytes.0).trim().to_owned())
            };
            address = field("address").unwrap_or(address);
            token = field("token");
        }
        let kind = text("/spec/type");
        if address.is_empty() && kind == "slack" && token.is_some() {
            "https://slack.com/api/chat.postMessage".clone_into(&mut address);
        }
        if address.is_empty() {
            let problem = "has no address: set spec.address, or `address` in the Secret of \
                           spec.secretRef";
            return Err(Failure::Final(format!("{provider} {problem}")));
        }
        let form = match kind.as_str() {
            "slack" | "rocket" => Form::Slack,
            "discord" => {
                // Discord takes Slack's messages at this path.
                if !address.ends_with("/slack") {
                    address.push_str("/slack");
                }
                Form::Slack
            }
            "msteams" => Form::Teams,
            "gchat" => Form::GoogleChat,
            "webhook" => Form::Webhook,
            other => {
                let (other, known) = (redact::quote(other), PROVIDER_TYPES.join(", "));
                let problem =
                    format!("{provider}: spec.type {other} is not supported; use one of {known}");
                return Err(Failure::Final(problem));
            }
        };
        let or = |text: String, default: &str| if text.is_empty() { default.into() } else { text };
        Ok(Self {
            form,
            address,
            token,
            channel: or(text("/spec/channel"), "general"),
            username: or(text("/spec/username"), "evenkeel"),
        })
    }

    /// What a receiver must not repeat. The path is the password of a chat's webhook.
    fn secrets(&self) -> Secrets {
        Secrets::of_whole_url(&self.address).and(self.token.as_deref().unwrap_or_default())
    }

    /// Whether an answer of status 200 means that the message was taken. Slack's API says in the
    /// body that it was not.
    fn taken(&self, body: &[u8]) -> Result<(), Failure> {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        if self.form != Form::Slack || said.get("ok") != Some(&Value::Bool(false)) {
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
        match self.form {
            Form::Slack => {
                let fields: Vec<_> = facts
                    .map(|(title, value)| json!({"title": title, "value": value, "short": false}))
                    .collect();
                let colour = if severity == "error" { "danger" } else { "good" };
                json!({"channel": self.channel, "username": self.username, "attachments": [{
                    "color": colour, "author_name": owner, "text": message,
                    "mrkdwn_in": ["text"], "fields": fields}]})
            }
            Form::Teams => {
                let facts: Vec<_> =
                    facts.map(|(name, value)| json!({"name": name, "value": value})).collect();
                let colour = if severity == "error" { "FF0000" } else { "0076D7" };
                json!({"@type": "MessageCard", "@context": "http://schema.org/extensions",
                    "themeColor": colour, "summary": format!("{owner}: {message}"),
                    "sections": [{"activityTitle": message, "activitySubtitle": owner,
                        "facts": facts}]})
            }
            Form::GoogleChat => {
                let facts = facts.map(|(name, value)| format!("\n{name}: {value}"));
                json!({"text": format!("*{owner}* {message}{}", facts.collect::<String>())})
            }
            Form::Webhook => {
                json!({"id": notification.id, "object": owner, "severity": severity,
                    "message": message, "fields": fields})
            }
        }
    }
}
