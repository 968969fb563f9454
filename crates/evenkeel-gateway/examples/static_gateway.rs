//! Serves one address from a fixed list of endpoints: `static_gateway LISTEN WORKERS ENDPOINT...`.
//! Connections are HTTP; with `detect` or `bytes` in front of the endpoints as on a Service's port
//! that declares nothing, or something else.
//!
//! Lines on standard input change it while it runs; each is answered with one line once every worker
//! runs the change:
//! - `set ENDPOINT...`: exactly these endpoints from now on;
//! - `drain ENDPOINT`: no new requests; answered when the last one has ended;
//! - `metrics`: the counters, ended by a line with a full stop.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;

use evenkeel_gateway::engine::{EndpointState, Protocol};
use evenkeel_gateway::shell::{Gateway, Settings};
use evenkeel_gateway::standalone::Standalone;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments.next().ok_or("an address to listen on")?.parse()?;
    let workers = arguments.next().ok_or("the number of workers")?.parse()?;
    let mut arguments = arguments.peekable();
    let named = arguments.peek().and_then(|word| protocol(word));
    let arguments = arguments.skip(usize::from(named.is_some()));
    let endpoints = arguments.map(|one| one.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let gateway = Gateway::start(Settings { workers, ..Settings::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut served = Standalone::new(listen, &endpoints);
    served.protocol = named.unwrap_or(Protocol::Http);
    let mut generation = 0;
    let mut apply = |served: &Standalone| -> Result<(), Box<dyn Error>> {
        generation += 1;
        if let Some(error) = gateway.apply(&served.snapshot(generation)).values().next() {
            return Err(Box::new(*error));
        }
        let mut progress = gateway.progress();
        runtime.block_on(progress.wait_for(|progress| progress.acknowledged >= generation))?;
        Ok(())
    };
    let mut out = std::io::stdout();
    apply(&served)?;
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        match words.next() {
            Some("set") => {
                let endpoints = words.map(str::parse).collect::<Result<Vec<_>, _>>()?;
                let now = Standalone::new(listen, &endpoints);
                served = Standalone { protocol: served.protocol, ..now };
                apply(&served)?;
                writeln!(out, "set {}", endpoints.len())?;
            }
            Some("drain") => {
                let endpoint: SocketAddr = words.next().ok_or("an endpoint")?.parse()?;
                for (address, state) in &mut served.endpoints {
                    if *address == endpoint {
                        *state = EndpointState::Draining;
                    }
                }
                apply(&served)?;
                let mut progress = gateway.progress();
                runtime.block_on(progress.wait_for(|_| gateway.in_flight(endpoint) == 0))?;
                writeln!(out, "drained {endpoint}")?;
            }
            Some("metrics") => writeln!(out, "{}.", gateway.metrics().render())?,
            _ => writeln!(out, "unknown: {line}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn protocol(word: &str) -> Option<Protocol> {
    match word {
        "detect" => Some(Protocol::Detect),
        "bytes" => Some(Protocol::Bytes),
        _ => None,
    }
}
