use std::{collections::VecDeque, time::Duration};

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

use crate::{answer::Failure, words::chain};

/// Longest event: etcd takes objects of 1.5 MiB, and JSON may be several times as long.
const LINE_MAX: usize = 16 << 20;

/// The JSON lines of a watch. A stream that is silent for too long is broken, whatever TCP says.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    ready: VecDeque<Value>,
    silence_max: Duration,
}

impl Lines {
    pub(crate) fn new(body: Body, silence_max: Duration) -> Self {
        Self { body, buffer: BytesMut::new(), ready: VecDeque::new(), silence_max }
    }

    /// The next line; `None` when the server has ended the stream. Nothing is lost when the call
    /// is dropped before it is done.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let frame = tokio::time::timeout(self.silence_max, self.body.frame()).await;
            match frame.map_err(|_| Failure::Silent(self.silence_max))? {
                // A line without its end was cut off: it comes again when the watch resumes.
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Broken(chain(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        let searched = self.buffer.len();
                        self.buffer.extend_from_slice(&data);
                        self.split(searched)?;
                    }
                }
            }
        }
    }

    fn split(&mut self, mut searched: usize) -> Result<(), Failure> {
        let end_of_line = |buffer: &[u8]| buffer.iter().position(|byte| *byte == b'\n');
        while let Some(end) = self.buffer.get(searched..).and_then(end_of_line) {
            let line = self.buffer.split_to(searched + end);
            self.buffer.advance(1);
            searched = 0;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let event = serde_json::from_slice(&line)
                .map_err(|error| Failure::Broken(format!("an event is not JSON: {error}")))?;
            self.ready.push_back(event);
        }
        if self.buffer.len() > LINE_MAX {
            return Err(Failure::Broken(format!("an event is longer than {LINE_MAX} bytes")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        Lines::new(Body::empty(), Duration::from_secs(1))
    }

    #[test]
    fn lines_are_found_across_frames() {
        let mut lines = lines();
        for piece in ["{\"a\":", "1}\n\n{\"a\"", ":2}\n{\"a\":3}\n{"] {
            let searched = lines.buffer.len();
            lines.buffer.extend_from_slice(piece.as_bytes());
            lines.split(searched).unwrap();
        }
        let values: Vec<_> = lines.ready.iter().map(|line| line["a"].clone()).collect();
        assert_eq!(values, [1, 2, 3]);
        assert_eq!(&lines.buffer[..], b"{");
    }

    #[tokio::test]
    async fn an_end_is_an_end() {
        assert!(lines().next().await.unwrap().is_none());
    }

    #[test]
    fn text_in_the_place_of_an_event_is_an_error() {
        let mut lines = lines();
        lines.buffer.extend_from_slice(b"<html>\n");
        assert!(matches!(lines.split(0), Err(Failure::Broken(_))));
    }
}
