use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

/// How far back its series go.
const SERIES: Duration = Duration::from_mins(10);

/// A Prometheus with set answers: all requests of a namespace succeed, or a fifth of them fails.
/// The counters of SLOs stand still, so that nothing happens to a budget.
pub(crate) struct Prometheus {
    pub(crate) url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    bad: Mutex<BTreeSet<String>>,
    faults: Mutex<BTreeMap<String, Fault>>,
}

/// What is wrong with the answers about a namespace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Connections are closed without an answer.
    Gone,
    /// Nothing is answered, and the connection stays open.
    Silent,
    /// 503.
    Unavailable,
    /// There are no series.
    Empty,
}

impl Prometheus {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<State>::default();
        let answering = Arc::downgrade(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), Some(state)) = (stream, answering.upgrade()) else { return };
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { url, state }
    }

    /// From now on a fifth of the requests in this namespace fails.
    pub(crate) fn worsen(&self, namespace: &str) {
        let mut bad = self.state.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.insert(namespace.to_owned());
    }
}

impl Prometheus {
    /// From now on this is wrong in this namespace; `None` ends it.
    pub(crate) fn fail(&self, namespace: &str, fault: Option<Fault>) {
        let mut faults = self.state.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(fault) => faults.insert(namespace.to_owned(), fault),
            None => faults.remove(namespace),
        };
    }
}

impl State {
    fn fault(&self, form: &str) -> Option<Fault> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = decode(form);
        let about = |namespace: &str| asked.contains(&format!("namespace=\"{namespace}\""));
        faults.iter().find(|(namespace, _)| about(namespace)).map(|(_, fault)| *fault)
    }
}

fn serve(stream: &TcpStream, state: &State) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or_default() == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or_default() == 0 {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let form = String::from_utf8(body).unwrap();
        let fault = state.fault(&form);
        let (code, answer) = match fault {
            Some(Fault::Gone) => return,
            Some(Fault::Silent) => {
                // Until the client has had enough.
                let mut rest = String::new();
                reader.read_line(&mut rest).unwrap_or_default();
                return;
            }
            Some(Fault::Unavailable) => ("503 Service Unavailable", "overloaded".to_owned()),
            Some(Fault::Empty) => {
                let data = json!({"resultType": "vector", "result": []});
                ("200 OK", json!({"status": "success", "data": data}).to_string())
            }
            None => ("200 OK", answer(&first, &form, state).to_string()),
        };
        let head = format!(
            "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        let mut writer = stream;
        if writer.write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(first: &str, form: &str, state: &State) -> Value {
    let field = |name: &str| {
        let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value)).next()
    };
    let query = field("query").unwrap_or_default();
    let value = value(&query, state);
    let data = if first.contains("/query_range") {
        let number = |name| field(name).and_then(|text| text.parse::<f64>().ok()).unwrap();
        let (start, end, step) = (number("start"), number("end"), number("step"));
        // The series began a little while ago.
        let began = jiff::Timestamp::now() - SERIES;
        let first = start.max(began.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64());
        let mut at = start + ((first - start) / step).ceil() * step;
        let mut values = Vec::new();
        while at <= end {
            values.push(json!([at, value.to_string()]));
            at += step;
        }
        let series = json!({"metric": {"job": "x"}, "values": values});
        let result = if values.is_empty() { vec![] } else { vec![series] };
        json!({"resultType": "matrix", "result": result})
    } else {
        let at = field("time").and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        json!({"resultType": "vector",
            "result": [{"metric": {"job": "x"}, "value": [at, value.to_string()]}]})
    };
    json!({"status": "success", "data": data})
}

fn value(query: &str, state: &State) -> f64 {
    let bad = state.bad.lock().unwrap_or_else(PoisonError::into_inner);
    let is_bad = bad.iter().any(|namespace| query.contains(&format!("namespace=\"{namespace}\"")));
    match (query.contains("5.*") || query.contains("5.."), is_bad) {
        (true, true) => 20.0,
        (true, false) => 0.0,
        (false, _) => 100.0,
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}
