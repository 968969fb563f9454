//! An open-loop HTTP/1.1 client: `load ADDRESS RATE SECONDS CONNECTIONS GET|POST|MIX` prints one line of
//! JSON. Requests start when they are due, whether or not earlier ones have ended, as long as a connection
//! is free; latency counts from when a request was due. It never repeats a request: whatever is not a
//! whole 2xx answer is a failure, counted by kind.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: 5\r\n\r\nhello";

#[derive(Default)]
struct Counts {
    latency_us: Vec<u64>,
    failed: BTreeMap<String, u64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let address: SocketAddr = arguments[1].parse().expect("an address");
    let rate: f64 = arguments[2].parse().expect("requests per second");
    let seconds: f64 = arguments[3].parse().expect("seconds");
    let connections: usize = arguments[4].parse().expect("connections");
    let mix = arguments[5].clone();
    let total = (rate * seconds) as u64;
    let next = Arc::new(AtomicU64::new(0));
    let begin = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (next, mix) = (next.clone(), mix.clone());
            let builder = std::thread::Builder::new().stack_size(128 << 10);
            let work = move || {
                let mut counts = Counts::default();
                let mut connection = None;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= total {
                        return counts;
                    }
                    let due = begin + Duration::from_secs_f64(index as f64 / rate);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let post = mix == "POST" || (mix == "MIX" && index % 2 == 1);
                    let sent = once(&mut connection, address, if post { POST } else { GET });
                    if let Err(kind) = sent {
                        connection = None;
                        *counts.failed.entry(kind).or_default() += 1;
                    }
                    counts.latency_us.push(due.elapsed().as_micros() as u64);
                }
            };
            builder.spawn(work).expect("a thread")
        })
        .collect();
    let mut all = Counts::default();
    for thread in threads {
        let counts = thread.join().expect("a thread that does not panic");
        all.latency_us.extend(counts.latency_us);
        for (kind, count) in counts.failed {
            *all.failed.entry(kind).or_default() += count;
        }
    }
    report(all);
}

fn report(mut all: Counts) {
    all.latency_us.sort_unstable();
    let count = all.latency_us.len();
    let quantile = |q: f64| {
        let index = ((count as f64 * q) as usize).min(count.saturating_sub(1));
        all.latency_us.get(index).map_or(0.0, |us| *us as f64 / 1000.0)
    };
    let failed: u64 = all.failed.values().sum();
    println!(
        "{{\"sent\":{count},\"failed\":{failed},\"kinds\":{:?},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"max_ms\":{:.2}}}",
        all.failed,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
}

fn once(
    connection: &mut Option<TcpStream>,
    address: SocketAddr,
    request: &[u8],
) -> Result<(), String> {
    if connection.is_none() {
        let stream = TcpStream::connect(address).map_err(|_| "connect".to_owned())?;
        stream.set_nodelay(true).map_err(|_| "connect".to_owned())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|_| "connect".to_owned())?;
        *connection = Some(stream);
    }
    let stream = connection.as_mut().expect("there is one now");
    stream.write_all(request).map_err(|_| "write".to_owned())?;
    let mut buffer = Vec::with_capacity(512);
    let mut chunk = [0_u8; 2048];
    let mut more = |buffer: &mut Vec<u8>| match stream.read(&mut chunk) {
        Ok(0) if buffer.is_empty() => Err("closed_before_answer".to_owned()),
        Ok(0) => Err("closed_in_answer".to_owned()),
        Ok(count) => {
            buffer.extend_from_slice(&chunk[..count]);
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err("timeout".to_owned()),
        Err(_) => Err("reset".to_owned()),
    };
    let end = loop {
        match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => more(&mut buffer)?,
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
    let field = |name: &str| {
        let line = head.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = field("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
    let close = field("connection:").is_some_and(|value| value == "close");
    while buffer.len() < end + length {
        more(&mut buffer)?;
    }
    let status = head.get(9..12).unwrap_or("???").to_owned();
    if close {
        *connection = None;
    }
    if status.starts_with('2') { Ok(()) } else { Err(format!("status_{status}")) }
}
