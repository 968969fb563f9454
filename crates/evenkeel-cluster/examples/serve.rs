//! An API server alone, for `kubectl`: `cargo run -p evenkeel-cluster --example serve`.
//!
//! Writes a kubeconfig file to the path given (default `./kubeconfig`) and serves until killed.

use std::{collections::BTreeMap, io::Write as _, sync::Arc};

use evenkeel_base::{Clock, Rng, uid};
use evenkeel_cluster::{ApiServer, NoExec, NoLogs, http};
use jiff::Timestamp;

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "kubeconfig".to_owned());
    let seed = u64::from(Timestamp::now().subsec_nanosecond().unsigned_abs());
    let server = ApiServer::new(Arc::new(WallClock), Rng::new(seed));
    let token = uid(&mut Rng::new(seed ^ u64::from(std::process::id())));
    let options = http::HttpOptions {
        addr: ([127, 0, 0, 1], 0).into(),
        tokens: BTreeMap::from([(token.clone(), "admin".to_owned())]),
        logs: Arc::new(NoLogs),
        exec: Arc::new(NoExec),
        tls_dir: None,
    };
    let serving = http::serve(server, options).await?;
    std::fs::write(&path, http::kubeconfig(&serving, &token))?;
    writeln!(std::io::stdout(), "kubeconfig: {path}")?;
    std::future::pending::<()>().await;
    Ok(())
}
