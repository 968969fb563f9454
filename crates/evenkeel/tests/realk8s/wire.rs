use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use crate::bed::Bed;

/// A wire between a client and a server on this machine. It can lose all connections that are open
/// as a firewall does: nothing comes through any more, without an error.
pub(crate) struct Wire {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Which connections are dead: those of this number and before.
    cuts: AtomicUsize,
    /// Connections so far.
    opened: AtomicUsize,
    cut: Notify,
    ended: AtomicBool,
}

impl Wire {
    pub(crate) fn to(bed: &Bed, server: u16) -> Self {
        let shared = Arc::<Shared>::default();
        let listener = bed.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = shared.clone();
        bed.runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                accepting.opened.fetch_add(1, Ordering::Relaxed);
                let shared = accepting.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let cut = shared.cuts.load(Ordering::SeqCst);
                    tokio::join!(
                        carry(from_client, to_server, &shared, cut),
                        carry(from_server, to_client, &shared, cut),
                    );
                });
            }
        });
        Self { port, shared }
    }

    /// Loses every connection that is open now.
    pub(crate) fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        self.shared.cut.notify_waiters();
    }

    /// Connections opened so far.
    pub(crate) fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, born: usize) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = shared.cut.notified() => Ok(0),
        };
        if shared.cuts.load(Ordering::SeqCst) != born {
            // Neither end is closed: both halves stay open for as long as the other end is.
            return std::future::pending().await;
        }
        match read {
            Ok(0) | Err(_) => {
                // The other side may have gone, too.
                to.shutdown().await.unwrap_or_default();
                return;
            }
            Ok(length) => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
