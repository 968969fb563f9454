//! How many creates per second are safe on the disk, by the number of writers:
//! `cargo run --release -p evenkeel-cluster --example durable [FOLDER]`.

use std::{io::Write as _, path::PathBuf, sync::Arc, time::Instant};

use evenkeel_api::Obj;
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::{ApiServer, RedbJournal};
use evenkeel_control::{Write as _, WriteOptions};
use futures::{
    StreamExt as _,
    executor::block_on,
    stream::{FuturesUnordered, iter},
};
use jiff::Timestamp;
use serde_json::json;

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Creates per measurement.
const COUNT: usize = 4_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    for writers in [1, 32, 128] {
        let file = folder.join(format!("evenkeel-durable-{}.redb", std::process::id()));
        let journal = RedbJournal::open(&file)?;
        let (server, flusher) = ApiServer::open(Arc::new(WallClock), Rng::new(1), journal)?;
        let keeper = flusher.start()?;
        let began = Instant::now();
        let writes: FuturesUnordered<_> =
            (0..writers).map(|writer| write(&server, writer, COUNT / writers)).collect();
        let done: usize = block_on(writes.collect::<Vec<_>>()).into_iter().sum();
        let seconds = began.elapsed().as_secs_f64();
        let rate = f64::from(u32::try_from(done)?) / seconds;
        writeln!(std::io::stdout(), "{writers:>4} writers: {rate:>8.0} creates/s")?;
        drop(keeper);
        std::fs::remove_file(&file)?;
    }
    Ok(())
}

/// One writer's share, one after another; how many succeeded.
async fn write(server: &Arc<ApiServer>, writer: usize, share: usize) -> usize {
    let made = iter(0..share).then(|number| async move {
        let meta = json!({"name": format!("c{writer}-{number}"), "namespace": "default"});
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
            "data": {"text": "x".repeat(512)}});
        let obj = Obj::from_json(body).ok()?;
        server.create(&obj, &WriteOptions::default()).await.ok()
    });
    made.filter_map(std::future::ready).count().await
}
