//! Bodies on the wire: how they end, taken apart and put together.

use bytes::{Buf as _, Bytes, BytesMut};

use super::wire::{Malformed, text};

/// Bytes of one chunk-size line or trailer line.
const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes; answers only.
    UntilClose,
}

/// Appends one chunk; an empty one is the end of the body.
pub(super) fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    text(out, format_args!("{:x}\r\n", data.len()));
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Takes a body's bytes off what was read.
#[derive(Debug)]
pub(super) struct Decoder {
    state: Decoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decoding {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What the bytes at hand give.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A piece of the body.
    Data(Bytes),
    /// More must be read.
    More,
    /// The body is over.
    End,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => Decoding::Done,
            Framing::Length(length) => Decoding::Length(length),
            Framing::Chunked => Decoding::ChunkSize,
            Framing::UntilClose => Decoding::UntilClose,
        };
        Self { state }
    }

    pub(super) fn done(&self) -> bool {
        self.state == Decoding::Done
    }

    /// Bytes still to come, when that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            Decoding::Length(length) => Some(length),
            Decoding::Done => Some(0),
            _ => None,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.state == Decoding::UntilClose
    }

    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match self.state {
                Decoding::Done => return Ok(Decoded::End),
                _ if read.is_empty() => return Ok(Decoded::More),
                Decoding::UntilClose => return Ok(Decoded::Data(read.split().freeze())),
                Decoding::Length(left) => {
                    let (data, left) = cut(read, left);
                    self.state = if left == 0 { Decoding::Done } else { Decoding::Length(left) };
                    return Ok(Decoded::Data(data));
                }
                Decoding::Chunk(left) => {
                    let (data, left) = cut(read, left);
                    self.state = if left == 0 { Decoding::ChunkEnd } else { Decoding::Chunk(left) };
                    return Ok(Decoded::Data(data));
                }
                Decoding::ChunkSize => {
                    let Some(line) = take_line(read)? else { return Ok(Decoded::More) };
                    let size = chunk_size(&line)?;
                    self.state = if size == 0 { Decoding::Trailers } else { Decoding::Chunk(size) };
                }
                Decoding::ChunkEnd => {
                    let Some(line) = take_line(read)? else { return Ok(Decoded::More) };
                    if !line.is_empty() {
                        return Err(Malformed("a chunk is longer than its size"));
                    }
                    self.state = Decoding::ChunkSize;
                }
                // Trailers are dropped: nothing here needs them.
                Decoding::Trailers => {
                    let Some(line) = take_line(read)? else { return Ok(Decoded::More) };
                    if line.is_empty() {
                        self.state = Decoding::Done;
                    }
                }
            }
        }
    }
}

fn cut(read: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let take = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    let data = read.split_to(take).freeze();
    (data, left - u64::try_from(take).unwrap_or(left))
}

fn take_line(read: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
        if read.len() > CHUNK_LINE_BYTES_MAX {
            return Err(Malformed("a line between chunks is too long"));
        }
        return Ok(None);
    };
    let mut line = read.split_to(end).freeze();
    read.advance(1);
    if line.last() != Some(&b'\r') {
        return Err(Malformed("a line between chunks ends without a return"));
    }
    line.truncate(line.len() - 1);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let bad = Malformed("a chunk's size is not a number");
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| bad)?;
    u64::from_str_radix(digits, 16).map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;

    /// Decodes what arrives in pieces of `step` bytes; ends with how it ended.
    fn body(framing: Framing, bytes: &[u8], step: usize) -> (Vec<u8>, String) {
        let (mut decoder, mut read, mut data) =
            (Decoder::new(framing), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step.max(1)) {
            read.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut read) {
                    Ok(Decoded::Data(more)) => data.extend_from_slice(&more),
                    Ok(Decoded::More) => break,
                    Ok(Decoded::End) => return (data, format!("end, {} left", read.len())),
                    Err(error) => return (data, error.to_string()),
                }
            }
        }
        (data, "more".to_owned())
    }

    #[test]
    fn chunks_are_read_strictly() {
        let end = |text: &str| body(Framing::Chunked, text.as_bytes(), 1).1;
        assert_snapshot!(end("3\r\nabc\r\n0\r\n\r\n"), @"end, 0 left");
        assert_snapshot!(end("3;name=x\r\nabc\r\n0\r\nT: 1\r\n\r\n"), @"end, 0 left");
        assert_snapshot!(end("3\nabc"), @"the endpoint's answer is not HTTP/1.1: a line between chunks ends without a return");
        assert_snapshot!(end("3\r\nabcd\r\n"), @"the endpoint's answer is not HTTP/1.1: a chunk is longer than its size");
        assert_snapshot!(end("-3\r\n"), @"the endpoint's answer is not HTTP/1.1: a chunk's size is not a number");
        assert_snapshot!(end("ffffffffffffffffff\r\n"), @"the endpoint's answer is not HTTP/1.1: a chunk's size is not a number");
        assert_snapshot!(end(&"1".repeat(5_000)), @"the endpoint's answer is not HTTP/1.1: a line between chunks is too long");
    }

    proptest! {
        #[test]
        fn what_is_written_in_chunks_is_read_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            step in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for part in &parts {
                write_chunk(&mut bytes, part);
            }
            write_chunk(&mut bytes, b"");
            let (data, end) = body(Framing::Chunked, &bytes, step);
            prop_assert_eq!(data, parts.concat());
            prop_assert_eq!(end, "end, 0 left");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            body(Framing::Chunked, &bytes, 7);
            body(Framing::Length(5), &bytes, 7);
        }
    }
}
