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
    sync::{Notify, watch},
};

use crate::bed::Bed;

/// A wire between a client and a server on this machine. It can lose all connections that are open
/// as a firewall does: nothing comes through any more, without an error. It can lose only the
/// answers; it can hold what the client sends, and bring it to the server late; and it can be down.
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
    is_mute: AtomicBool,
    is_down: AtomicBool,
    holds: watch::Sender<bool>,
}

/// Whose words are carried.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Client,
    Server,
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
                if accepting.is_down.load(Ordering::SeqCst) {
                    continue;
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
                        carry(From::Client, from_client, to_server, &shared, cut),
                        carry(From::Server, from_server, to_client, &shared, cut),
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

    /// From now on, until it is told otherwise, answers are lost, and so is each connection on which
    /// there was one.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.shared.is_mute.store(is_mute, Ordering::SeqCst);
    }

    /// Holds what the client sends.
    pub(crate) fn hold(&self) {
        self.shared.holds.send_replace(true);
    }

    /// Brings what was held to the server; the connections are lost after it, without an error.
    pub(crate) fn deliver(&self) {
        self.shared.holds.send_replace(false);
    }

    /// Closes every connection, and takes no other.
    pub(crate) fn take_down(&self) {
        self.shared.is_down.store(true, Ordering::SeqCst);
        self.shared.cut.notify_waiters();
    }

    /// Takes connections again.
    pub(crate) fn bring_up(&self) {
        self.shared.is_down.store(false, Ordering::SeqCst);
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

async fn carry(
    whose: From,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    born: usize,
) {
    let mut holds = shared.holds.subscribe();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = shared.cut.notified() => Ok(0),
        };
        if shared.is_down.load(Ordering::SeqCst) {
            return;
        }
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
            Ok(_) if whose == From::Server && shared.is_mute.load(Ordering::SeqCst) => {
                return std::future::pending().await;
            }
            Ok(length) if whose == From::Client && *holds.borrow_and_update() => {
                let delivered = holds.wait_for(|holds| !holds).await.is_ok();
                if delivered && to.write_all(&buffer[..length]).await.is_ok() {
                    return std::future::pending().await;
                }
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
