//! An HTTP/1.1 endpoint for benchmarks: `backend ADDRESS SERVICE_MS`. One thread per connection, standard
//! library only. `/healthz` answers at once, everything else after the service time. It does not handle
//! signals: SIGTERM and SIGKILL end it at once, with whatever it is doing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("an address");
    let service = arguments.next().expect("the service time in ms").parse().expect("a number");
    let service = Duration::from_millis(service);
    let listener = TcpListener::bind(address).expect("the address is free");
    for stream in listener.incoming().flatten() {
        let builder = std::thread::Builder::new().stack_size(64 << 10);
        builder.spawn(move || serve(stream, service)).expect("a thread");
    }
}

fn serve(mut stream: TcpStream, service: Duration) {
    stream.set_nodelay(true).unwrap_or_default();
    let mut buffer = Vec::with_capacity(4096);
    let mut chunk = [0_u8; 4096];
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            }
        };
        let health = buffer.starts_with(b"GET /healthz ");
        let length = content_length(&buffer[..end]);
        while buffer.len() < end + length {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            }
        }
        buffer.drain(..end + length);
        if !health && !service.is_zero() {
            std::thread::sleep(service);
        }
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    if head.starts_with(b"GET ") {
        return 0;
    }
    let head = String::from_utf8_lossy(head);
    head.lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
        })
        .unwrap_or(0)
}
