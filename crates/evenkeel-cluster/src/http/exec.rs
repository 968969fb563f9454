//! `kubectl exec`: a command in a container, over WebSocket.
//!
//! **Source**: the subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`
//! (`k8s.io/apimachinery/pkg/util/remotecommand`): each message is one byte for the channel, and
//! what goes through it.

use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use evenkeel_control::BoxFuture;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Semaphore, mpsc},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    commands::{ExecRequest, ExecSession, Resize},
    objects::container_of,
    reply::{self, Reply},
    request::unescape,
    route::{Router, Target},
};
use crate::{error::ApiError, value::text_at};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// Only in version 5: the channel in the second byte ends.
const CLOSE: u8 = 255;

/// The versions that are spoken, best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Commands that run at once: each is a process, and a connection that is not counted elsewhere.
const EXECS_MAX: usize = 64;
static EXECS: Semaphore = Semaphore::const_new(EXECS_MAX);
/// Bytes read at once from a command.
const CHUNK: usize = 32 * 1024;
/// Messages that wait for the client; then the command waits.
const WAITING_MAX: usize = 16;
/// Largest message of a client: kubectl sends 32 KiB.
const MESSAGE_MAX: usize = 1 << 20;

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

impl Router {
    /// Starts a command and answers with the beginning of the conversation.
    pub(super) fn exec(
        &self,
        parts: &Parts,
        upgrade: Option<OnUpgrade>,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let pod = self.server.get_now(&target.key())?;
        let asked = Asked::of(parts.uri.query().unwrap_or_default());
        if asked.command.is_empty() {
            return Err(ApiError::bad_request("you must specify at least one command to run"));
        }
        let container = container_of(&pod, &asked.container)?;
        let node = text_at(pod.json(), "/spec/nodeName");
        if node.is_empty() {
            let problem = format!("pod {} does not have a host assigned", pod.name());
            return Err(ApiError::bad_request(problem));
        }
        if matches!(text_at(pod.json(), "/status/phase"), "Succeeded" | "Failed") {
            let phase = text_at(pod.json(), "/status/phase");
            return Err(ApiError::bad_request(format!(
                "cannot exec into a container in a completed pod; current phase is {phase}"
            )));
        }
        // Last: clients that are refused try SPDY, and show only what that was answered.
        let (key, protocol) = handshake(&parts.headers)?;
        let upgrade = upgrade.ok_or_else(|| ApiError::bad_request("use HTTP/1.1 for exec"))?;
        let wanted = ExecRequest {
            uid: pod.uid().to_owned(),
            node: node.to_owned(),
            container,
            command: asked.command,
            stdin: asked.stdin,
            tty: asked.tty,
        };
        let place = EXECS.try_acquire().map_err(|_| {
            ApiError::new(429, "TooManyRequests", format!("{EXECS_MAX} commands run already"))
        })?;
        let starting = self.exec.start(wanted);
        tokio::spawn(async move {
            let _place = place;
            let upgraded = match upgrade.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => return tracing::debug!(%error, "exec: the client is gone"),
            };
            let config = WebSocketConfig::default()
                .max_message_size(Some(MESSAGE_MAX))
                .max_frame_size(Some(MESSAGE_MAX));
            let socket = Socket::from_raw_socket(upgraded, Role::Server, Some(config)).await;
            if let Err(error) = converse(socket, starting).await {
                tracing::debug!(%error, "exec: the conversation broke off");
            }
        });
        let mut reply = reply::bytes(101, "", Bytes::new());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = reply.headers_mut();
        headers.clear();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        let accept = derive_accept_key(key.as_bytes());
        let accept = HeaderValue::try_from(accept);
        headers.extend(accept.map(|accept| (header::SEC_WEBSOCKET_ACCEPT, accept)));
        Ok(reply)
    }
}

/// The client's key, and the version to speak.
fn handshake(headers: &HeaderMap) -> Result<(&str, &'static str), ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let upgrade = text(header::UPGRADE).unwrap_or_default();
    if upgrade.to_ascii_lowercase().starts_with("spdy") {
        return Err(ApiError::bad_request(
            "exec over SPDY is not served: use kubectl 1.30 or later, or kubectl 1.29 with \
             KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true",
        ));
    }
    let is_websocket = upgrade.eq_ignore_ascii_case("websocket");
    let key = text(header::SEC_WEBSOCKET_KEY).filter(|_| is_websocket);
    let key = key.ok_or_else(|| ApiError::bad_request("Upgrade request required"))?;
    let offered = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let is_offered = |known: &&str| offered.split(',').any(|one| one.trim() == *known);
    let protocol = PROTOCOLS.into_iter().find(is_offered);
    let protocol = protocol.ok_or_else(|| {
        ApiError::bad_request(format!(
            "unable to upgrade: none of the protocols {offered:?} is spoken, offer one of {}",
            PROTOCOLS.join(", ")
        ))
    })?;
    Ok((key, protocol))
}

/// What the URL asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    container: String,
    command: Vec<String>,
    stdin: bool,
    tty: bool,
}

impl Asked {
    fn of(query: &str) -> Self {
        let mut asked = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = unescape(&value.replace('+', " "));
            let is_on = matches!(value.as_str(), "true" | "1");
            match name {
                "container" => asked.container = value,
                "command" => asked.command.push(value),
                "stdin" => asked.stdin = is_on,
                "tty" => asked.tty = is_on,
                _ => {}
            }
        }
        asked
    }
}

/// Carries everything between the client and the command, until one of them ends.
async fn converse(
    socket: Socket,
    starting: BoxFuture<'static, Result<ExecSession, String>>,
) -> Result<(), Error> {
    let (mut to_client, from_client) = socket.split();
    let session = match starting.await {
        Ok(session) => session,
        Err(problem) => return finish(&mut to_client, &failure(&problem)).await,
    };
    let ExecSession { input, output, errors, resize, end } = session;
    let (sender, mut waiting) = mpsc::channel(WAITING_MAX);
    let outputs = async {
        let of_errors = async {
            if let Some(errors) = errors {
                carry(errors, STDERR, sender.clone()).await;
            }
        };
        tokio::join!(carry(output, STDOUT, sender.clone()), of_errors);
        drop(sender);
    };
    let sending = async {
        while let Some(message) = waiting.recv().await {
            to_client.send(message).await?;
        }
        Ok::<(), Error>(())
    };
    let listening = listen(from_client, input, resize);
    let working = async {
        let (ended, sent, ()) = tokio::join!(end, sending, outputs);
        sent.map(|()| ended)
    };
    let ended = tokio::select! {
        ended = working => ended?,
        // The client is gone: dropping the session ends the command.
        gone = listening => return gone,
    };
    let status = match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(problem) => failure(&problem),
    };
    finish(&mut to_client, &status).await
}

fn failure(problem: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {problem}"),
        "details": {"causes": [{"message": problem}]}})
}

async fn finish<S>(to_client: &mut S, status: &Value) -> Result<(), Error>
where
    S: Sink<Message, Error = Error> + Unpin,
{
    to_client.send(message(STATUS, status.to_string().as_bytes())).await?;
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    to_client.send(Message::Close(Some(close))).await?;
    to_client.close().await
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = BytesMut::with_capacity(bytes.len() + 1);
    framed.put_u8(channel);
    framed.extend_from_slice(bytes);
    Message::Binary(framed.freeze())
}

/// Sends all that a command writes.
async fn carry(mut from: Pin<Box<dyn AsyncRead + Send>>, channel: u8, to: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK];
    // A terminal whose program has ended reports an error instead of the end.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        if to.send(message(channel, bytes)).await.is_err() {
            return;
        }
    }
}

/// Gives the command what the client sends; ends when the client has gone.
async fn listen(
    mut from: impl Stream<Item = Result<Message, Error>> + Unpin,
    mut input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    resize: Option<Resize>,
) -> Result<(), Error> {
    while let Some(message) = from.next().await {
        let bytes = match message? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        match bytes.split_first() {
            Some((&STDIN, rest)) => {
                let written = match &mut input {
                    Some(input) => {
                        input.write_all(rest).await.is_ok() && input.flush().await.is_ok()
                    }
                    None => true,
                };
                if !written {
                    // It reads no more. What it still writes is wanted.
                    input = None;
                }
            }
            Some((&CLOSE, [STDIN])) => input = None,
            Some((&RESIZE, rest)) => {
                if let (Some(resize), Ok(size)) = (&resize, serde_json::from_slice(rest)) {
                    resize(size);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_from_the_url() {
        let asked = Asked::of(
            "command=sh&command=-c&command=echo+a%26b&container=app&stdin=true&stdout=true&tty=1",
        );
        let command = ["sh", "-c", "echo a&b"].map(str::to_owned).to_vec();
        let container = "app".to_owned();
        assert_eq!(asked, Asked { container, command, stdin: true, tty: true });
        assert_eq!(Asked::of(""), Asked::default());
    }

    #[test]
    fn the_best_protocol_that_both_speak_is_taken() {
        let said = |upgrade: &'static str, protocols: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("k"));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
            handshake(&headers).map(|(_, protocol)| protocol).map_err(|error| error.message)
        };
        assert_eq!(said("websocket", "v4.channel.k8s.io, v5.channel.k8s.io"), Ok(PROTOCOLS[0]));
        assert_eq!(said("WebSocket", "v4.channel.k8s.io"), Ok(PROTOCOLS[1]));
        assert!(said("websocket", "channel.k8s.io").unwrap_err().contains("none of the protocols"));
        assert!(said("SPDY/3.1", "").unwrap_err().contains("kubectl 1.30"));
        assert_eq!(said("h2c", "").unwrap_err(), "Upgrade request required");
    }
}
