use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_api::Obj;
use evenkeel_control::ListQuery;
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval_at, sleep};

use super::{
    reply::{self, Reply},
    request::{Form, Request},
    route::Target,
};
use crate::{
    ApiServer,
    error::ApiError,
    state::Change,
    table,
    watch::{Cursor, Opened},
};

/// A watch without a timeout of its own ends after this long, and the client opens it again.
const WATCH_SECONDS_MAX: u64 = 1_800;
/// Time between bookmarks, which keep an idle watcher's revision young.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// Marks the bookmark after the initial objects.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Answers `?watch=true`.
pub(super) fn open(
    server: &Arc<ApiServer>,
    request: &Request,
    target: &Target,
    query: ListQuery,
) -> Result<Reply, ApiError> {
    let form = request.form()?;
    let from = request.param("resourceVersion");
    let is_streaming_list = request.flag("sendInitialEvents");
    let starts_now = is_streaming_list || matches!(from, "" | "0");
    let since = (!starts_now).then(|| from.parse::<u64>()).transpose();
    let since =
        since.map_err(|_| ApiError::bad_request(format!("invalid resource version {from:?}")))?;
    let Opened { cursor, initial, revision } = server.watch_since(&query, since)?;
    let bookmarks = request.flag("allowWatchBookmarks");
    let seconds: u64 = request.number("timeoutSeconds")?.unwrap_or(WATCH_SECONDS_MAX);
    let start = tokio::time::Instant::now() + BOOKMARK_EVERY;
    let mut follower = Follower {
        server: server.clone(),
        target: Target {
            resource: target.resource.clone(),
            version: target.version.clone(),
            namespace: String::new(),
            name: String::new(),
            subresource: String::new(),
        },
        query,
        form,
        cursor,
        pending: VecDeque::new(),
        ends: Box::pin(sleep(Duration::from_secs(seconds.clamp(1, 86_400)))),
        bookmark: bookmarks.then(|| {
            let mut every = interval_at(start, BOOKMARK_EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        }),
        has_ended: false,
    };
    for obj in initial {
        let line = follower.line("ADDED", &obj);
        follower.pending.push_back(line);
    }
    if is_streaming_list && bookmarks {
        let mark = follower.bookmark(revision, true);
        follower.pending.push_back(mark);
    }
    Ok(reply::stream("application/json", follower.boxed()))
}

/// The lines of one watch.
struct Follower {
    server: Arc<ApiServer>,
    target: Target,
    query: ListQuery,
    form: Form,
    cursor: Cursor,
    pending: VecDeque<Bytes>,
    ends: Pin<Box<Sleep>>,
    bookmark: Option<Interval>,
    has_ended: bool,
}

impl Follower {
    fn line(&self, kind: &str, obj: &Obj) -> Bytes {
        let (resource, version) = (&self.target.resource, &*self.target.version);
        match self.form {
            Form::Plain if version == &*resource.kind.version => {
                event_line(kind, &obj.json().to_string())
            }
            Form::Plain => event_line(kind, &self.target.versioned(obj).to_string()),
            Form::Partial => event_line(kind, &table::partial(obj.json()).to_string()),
            Form::Table(include) => {
                let row = table::row(resource, version, obj, include, self.server.now());
                let body = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"resourceVersion": obj.revision().to_string()},
                    "columnDefinitions": table::columns(resource, version), "rows": [row]});
                event_line(kind, &body.to_string())
            }
        }
    }

    fn bookmark(&self, revision: u64, is_initial: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(),
            "creationTimestamp": Value::Null});
        if is_initial {
            meta["annotations"] = json!({INITIAL_END: "true"});
        }
        let kind = &self.target.resource.kind;
        let body = match self.form {
            Form::Table(_) => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta, "columnDefinitions": [], "rows": []}),
            Form::Partial => json!({"kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1", "metadata": meta}),
            Form::Plain => json!({"kind": &*kind.id.kind, "apiVersion": kind.api_version(),
                "metadata": meta}),
        };
        event_line("BOOKMARK", &body.to_string())
    }

    /// What a change means to a client that sees only what the query selects.
    fn event_of(&self, change: &Change) -> Option<Bytes> {
        let was = change.before.as_ref().is_some_and(|before| self.query.matches(before));
        let is = !change.removed && self.query.matches(&change.obj);
        match (was, is) {
            (false, false) => None,
            (false, true) => Some(self.line("ADDED", &change.obj)),
            (true, true) => Some(self.line("MODIFIED", &change.obj)),
            (true, false) => Some(self.line("DELETED", &change.obj)),
        }
    }
}

fn event_line(kind: &str, object: &str) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

impl Stream for Follower {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        if let Some(line) = this.pending.pop_front() {
            return Poll::Ready(Some(line));
        }
        if this.has_ended {
            return Poll::Ready(None);
        }
        while let Poll::Ready(next) = this.cursor.poll_change(cx) {
            let Ok(change) = next else {
                this.has_ended = true;
                let status = ApiError::expired(0).to_status();
                return Poll::Ready(Some(event_line("ERROR", &status.to_string())));
            };
            if let Some(line) = this.event_of(&change) {
                return Poll::Ready(Some(line));
            }
        }
        if this.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if let Some(every) = this.bookmark.as_mut()
            && every.poll_tick(cx).is_ready()
        {
            // A tick consumed means that the timer must be armed again for this task.
            cx.waker().wake_by_ref();
            if let Some(revision) = this.cursor.caught_up() {
                return Poll::Ready(Some(this.bookmark(revision, false)));
            }
        }
        Poll::Pending
    }
}
