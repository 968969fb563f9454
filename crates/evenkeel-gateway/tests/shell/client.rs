//! A client that sees every byte.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

pub(crate) struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { address, stream: BufReader::new(stream) }
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    /// Sends a request and reads the answer; a connection that was announced to close is replaced.
    pub(crate) fn send(&mut self, request: &str) -> Reply {
        self.write(request);
        let reply = self.read_for(request.starts_with("HEAD")).expect("a whole answer");
        if reply.header("connection") == Some("close") {
            *self = Self::connect(self.address);
        }
        reply
    }

    pub(crate) fn write(&mut self, bytes: &str) {
        self.stream.get_mut().write_all(bytes.as_bytes()).unwrap();
    }

    pub(crate) fn read(&mut self) -> Option<Reply> {
        self.read_for(false)
    }

    pub(crate) fn read_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).unwrap() == 0 {
                break;
            }
        }
        head
    }

    pub(crate) fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// `None` when the connection ends before the answer does.
    fn read_for(&mut self, head_only: bool) -> Option<Reply> {
        let head = self.read_head();
        let status = head.get(9..12)?.parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        if head_only || status == 204 {
            return Some(reply);
        }
        if let Some(length) = reply.header("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut reply.body).ok()?;
            return Some(reply);
        }
        assert_eq!(reply.header("transfer-encoding"), Some("chunked"), "{}", reply.head);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).ok()?;
            if size == 0 {
                return Some(reply);
            }
            reply.body.extend_from_slice(&chunk[..size]);
        }
    }
}
