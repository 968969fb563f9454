//! Bytes in, bytes out: an endpoint that answers what the test says and remembers what it got.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use evenkeel_gateway::engine::{EndpointState, Listener, Rule};
use evenkeel_gateway::shell::{Gateway, Limits, Settings};
use evenkeel_gateway::standalone::Standalone;

use crate::backend::read_request;
use crate::wait;

/// What is sent to an endpoint's client, in this order.
#[derive(Clone)]
pub(crate) enum Act {
    /// Bytes as they are, in one write.
    Say(String),
    /// Waits until the other side has closed.
    Wait,
    /// Sends back everything that comes.
    Echo,
    /// Waits until the test says so.
    Hold,
    /// Ends the connection.
    Close,
}

/// How many requests are held, and how many may go on.
#[derive(Default)]
struct Gate {
    held: u32,
    released: u32,
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway with one endpoint.
pub(crate) struct Bench {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: SocketAddr,
    served: Standalone,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    acts: Mutex<Vec<Act>>,
    seen: Mutex<Vec<String>>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Bench {
    pub(crate) fn new(answer: &str) -> Self {
        Self::with(Limits::default(), vec![Act::Say(answer.to_owned())])
    }

    /// The endpoint does `acts` for every request.
    pub(crate) fn with(limits: Limits, acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap();
        let script = Arc::new(Script { acts: Mutex::new(acts), ..Script::default() });
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let script = Arc::clone(&shared);
                std::thread::spawn(move || script.answer(stream.unwrap()));
            }
        });
        let served = Standalone::new(SocketAddr::from(([127, 0, 0, 1], 0)), &[endpoint]);
        let settings = Settings { workers: 1, limits, ..Settings::default() };
        let gateway = Gateway::start(settings).unwrap();
        gateway.apply(&served.snapshot(1));
        wait(&gateway, |gateway| gateway.acknowledged() == 1);
        let address = gateway.addresses()[&served.listen];
        Self { gateway, address, endpoint, served, script }
    }

    /// What the endpoint does from now on.
    pub(crate) fn act(&self, acts: &[Act]) {
        *self.script.acts.lock().unwrap() = acts.to_vec();
    }

    /// Waits until the endpoint holds a request.
    pub(crate) fn wait_held(&self) {
        let gate = self.script.gate.lock().unwrap();
        drop(self.script.changed.wait_while(gate, |gate| gate.held == 0).unwrap());
    }

    /// Lets one held request go on.
    pub(crate) fn release(&self) {
        self.script.gate.lock().unwrap().released += 1;
        self.script.changed.notify_all();
    }

    /// Serves only these host names.
    pub(crate) fn serve_hosts(&self, hostnames: &[&str]) {
        let mut snapshot = (*self.served.snapshot(2)).clone();
        let hostnames = hostnames.iter().map(|name| (*name).to_owned()).collect();
        let rule = Rule { hostnames, ..Rule::to_pool(0) };
        let listener = Listener::new("default", "static", vec![rule]);
        snapshot.listeners.insert(self.served.listen, listener);
        self.gateway.apply(&Arc::new(snapshot));
        wait(&self.gateway, |gateway| gateway.acknowledged() == 2);
    }

    /// Takes the endpoint out of use, as before its pod is stopped.
    pub(crate) fn drain(&mut self) {
        self.served.endpoints[0].1 = EndpointState::Draining;
        self.gateway.apply(&self.served.snapshot(2));
        wait(&self.gateway, |gateway| gateway.acknowledged() == 2);
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends bytes, closes the sending side and reads to the end. What came, as bytes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A refused request may be answered before it is sent completely.
        stream.write_all(bytes).unwrap_or_default();
        stream.shutdown(Shutdown::Write).unwrap_or_default();
        read_all(stream)
    }

    /// The same: the statuses that came, `close` after one that ends the connection, then what the
    /// endpoint got.
    pub(crate) fn play(&self, bytes: &str) -> String {
        let came = self.raw(bytes.as_bytes());
        format!("{} | {}", statuses(&came), self.seen())
    }

    /// The requests that the endpoint got since the last question: method, target, host, body.
    pub(crate) fn seen(&self) -> String {
        let seen = std::mem::take(&mut *self.script.seen.lock().unwrap()).join("; ");
        seen.replace(&self.address.to_string(), "LISTENER")
            .replace(&self.served.listen.to_string(), "LISTENER")
    }
}

pub(crate) fn read_all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    String::from_utf8(bytes).unwrap()
}

/// The statuses in what a client got; bodies must not look like a status line.
pub(crate) fn statuses(came: &str) -> String {
    let mut text = String::new();
    for one in came.split("HTTP/1.").skip(1) {
        let code = one.get(2..5).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(code) = code else { continue };
        let (head, _) = one.split_once("\r\n\r\n").unwrap_or((one, ""));
        let close = if &fields(head)["connection"] == "close" { " close" } else { "" };
        write!(text, "{}{code}{close}", if text.is_empty() { "" } else { " " }).unwrap();
    }
    text
}

/// Fields of a head by name; those that are not there are empty.
pub(crate) struct Fields(BTreeMap<String, String>);

impl std::ops::Index<&str> for Fields {
    type Output = str;
    fn index(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

pub(crate) fn fields(head: &str) -> Fields {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
        let one = all.entry(name.to_lowercase()).or_default();
        let comma = if one.is_empty() { "" } else { ", " };
        write!(one, "{comma}{}", value.trim()).unwrap();
    }
    Fields(all)
}

impl Script {
    fn answer(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some((head, body)) = read_request(&mut stream, &mut buffer) {
            let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
            let mut text = format!("{line} {}", &fields(&head)["host"]);
            if !body.is_empty() {
                write!(text, " {:?}", String::from_utf8_lossy(&body)).unwrap();
            }
            self.seen.lock().unwrap().push(if line.ends_with("/head") { head } else { text });
            let acts = self.acts.lock().unwrap().clone();
            if !acts.iter().all(|act| self.act(act, &mut stream)) {
                break;
            }
        }
        stream.shutdown(Shutdown::Both).unwrap_or_default();
    }

    /// False when the connection is over.
    fn act(&self, act: &Act, stream: &mut TcpStream) -> bool {
        match act {
            Act::Say(bytes) => return stream.write_all(bytes.as_bytes()).is_ok(),
            Act::Wait => {
                stream.read_to_end(&mut Vec::new()).unwrap_or_default();
            }
            Act::Echo => {
                let mut chunk = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    stream.write_all(&chunk[..count]).unwrap();
                }
            }
            Act::Hold => {
                let mut gate = self.gate.lock().unwrap();
                gate.held += 1;
                self.changed.notify_all();
                let mut gate = self.changed.wait_while(gate, |gate| gate.released == 0).unwrap();
                gate.released -= 1;
                gate.held -= 1;
                return true;
            }
            Act::Close => {}
        }
        false
    }
}
