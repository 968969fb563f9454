//! An endpoint that does what the path says, and can be made to fail.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    die: AtomicBool,
    connections: AtomicU32,
    requests: AtomicU32,
    held: Mutex<u32>,
    released: Mutex<bool>,
    release: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Backend {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, address, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn connections(&self) -> u32 {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u32 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// From now on requests are read, and the connection is reset instead of an answer.
    pub(crate) fn die_in_requests(&self, die: bool) {
        self.state.die.store(die, Ordering::SeqCst);
    }

    pub(crate) fn close_connections(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }

    /// As a killed process: nobody listens, all connections are gone.
    pub(crate) fn stop(&self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts, which then drops the listener.
        drop(TcpStream::connect(self.address));
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
        self.close_connections();
    }

    pub(crate) fn held(&self) -> u32 {
        *self.state.held.lock().unwrap()
    }

    pub(crate) fn release(&self) {
        *self.state.released.lock().unwrap() = true;
        self.state.release.notify_all();
    }
}

/// One request as it arrived; `None` at the end of the connection.
pub(crate) fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Option<(String, Vec<u8>)> {
    let mut chunk = [0; 16 << 10];
    let mut more = |buffer: &mut Vec<u8>| match stream.read(&mut chunk) {
        Ok(0) | Err(_) => None,
        Ok(n) => {
            buffer.extend_from_slice(&chunk[..n]);
            Some(())
        }
    };
    let end = loop {
        match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => more(buffer)?,
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let mut body = Vec::new();
    if field("transfer-encoding").is_some() {
        loop {
            let line = loop {
                match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(at) => break buffer.drain(..=at).collect::<Vec<u8>>(),
                    None => more(buffer)?,
                }
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            while buffer.len() < size + 2 {
                more(buffer)?;
            }
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                break;
            }
        }
    } else {
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        while buffer.len() < length {
            more(buffer)?;
        }
        body.extend(buffer.drain(..length));
    }
    Some((head, body))
}

fn serve(mut stream: TcpStream, address: SocketAddr, state: &State) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = read_request(&mut stream, &mut buffer) {
        state.requests.fetch_add(1, Ordering::SeqCst);
        if state.die.load(Ordering::SeqCst) {
            break;
        }
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let path = target.split('?').next().unwrap().to_owned();
        let answer = |status: &str, body: &[u8]| {
            let mut bytes = format!(
                "HTTP/1.1 {status}\r\nX-Backend: {address}\r\nKeep-Alive: timeout=5\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            bytes.extend_from_slice(if head.starts_with("HEAD") { b"" } else { body });
            bytes
        };
        if path == "/silent" {
            // Until the other side gives up.
            stream.read_to_end(&mut Vec::new()).unwrap_or_default();
            break;
        }
        if path == "/upgrade" {
            echo(&mut stream);
            break;
        }
        let bytes = match path.as_str() {
            "/echo" => answer("200 OK", &[head.as_bytes(), &body].concat()),
            "/count" => answer("200 OK", body.len().to_string().as_bytes()),
            "/big/sized" => answer("200 OK", &vec![b'x'; 300_000]),
            "/hold" => {
                hold(state);
                answer("200 OK", b"held")
            }
            other => match (raw(other), other.strip_prefix("/status/")) {
                (Some(bytes), _) => bytes,
                (None, Some(status)) => {
                    answer(&format!("{status} Own"), format!("status {status}").as_bytes())
                }
                (None, None) => answer("200 OK", b"hello, world\n"),
            },
        };
        let ends = ["/big/closed", "/cut/sized", "/cut/chunked", "/nonsense", "/close"];
        if stream.write_all(&bytes).is_err() || ends.contains(&path.as_str()) {
            break;
        }
    }
    stream.shutdown(Shutdown::Both).unwrap_or_default();
}

/// Answers that are written as they stand here.
fn raw(path: &str) -> Option<Vec<u8>> {
    let mut bytes = match path {
        "/status/204" => "HTTP/1.1 204 No Content\r\n\r\n",
        "/close" => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "/big/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "/big/closed" => "HTTP/1.1 200 OK\r\n\r\n",
        "/cut/sized" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "/cut/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "/nonsense" => "this is not HTTP\r\n\r\n",
        _ => return None,
    }
    .as_bytes()
    .to_vec();
    match path {
        "/big/chunked" => {
            for _ in 0..100 {
                bytes.extend_from_slice(b"bb8;ext=1\r\n");
                bytes.extend_from_slice(&[b'y'; 3_000]);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
        }
        "/big/closed" => bytes.extend_from_slice(&vec![b'z'; 300_000]),
        _ => {}
    }
    Some(bytes)
}

fn hold(state: &State) {
    *state.held.lock().unwrap() += 1;
    let mut released = state.released.lock().unwrap();
    while !*released {
        released = state.release.wait(released).unwrap();
    }
}

fn echo(stream: &mut TcpStream) {
    let reply =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\npong";
    stream.write_all(reply.as_bytes()).unwrap();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        stream.write_all(&chunk[..count]).unwrap();
    }
}
