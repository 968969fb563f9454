use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    answer::{self, Reply},
    zone::Zone,
};
use crate::Network;

/// Where the names come from: the zone of this moment.
pub type Answers = watch::Receiver<Arc<Zone>>;

/// Port of DNS.
const PORT: u16 = 53;
/// Longest message.
const MESSAGE_MAX: usize = 65_535;
/// How long one of the host's name servers may take; the next one is asked then.
const UPSTREAM_MAX: Duration = Duration::from_secs(2);
/// How long a client's connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Pause after the system refused something.
const PAUSE: Duration = Duration::from_millis(50);
/// Questions and connections worked on at once; more UDP questions are dropped, as a full queue of
/// the system would drop them, and their clients ask again.
const AT_ONCE: usize = 256;

/// A name server for the pods of a cluster.
pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    work: Work,
}

#[derive(Clone)]
struct Work {
    zone: Answers,
    upstream: Arc<[SocketAddr]>,
    at_once: Arc<Semaphore>,
}

impl Server {
    /// Listens on an address of the cluster's network. Names of other domains are looked up with
    /// the host's name servers, from the network of the caller's runtime.
    pub fn bind(network: &Network, address: Ipv4Addr, zone: Answers) -> io::Result<Self> {
        let at = SocketAddr::from((address, PORT));
        let upstream = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let (udp, tcp) = network.inside(|| {
            let udp = std::net::UdpSocket::bind(at)?;
            let tcp = std::net::TcpListener::bind(at)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            io::Result::Ok((udp, tcp))
        })??;
        let work = Work {
            zone,
            upstream: name_servers(&upstream).into(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        };
        Ok(Self {
            udp: Arc::new(UdpSocket::from_std(udp)?),
            tcp: TcpListener::from_std(tcp)?,
            work,
        })
    }

    /// Answers until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.answer_udp(), self.answer_tcp());
    }

    async fn answer_udp(&self) {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let (count, client) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An earlier answer did not arrive: its client is gone.
                    tracing::debug!(%error, "a question over UDP");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let question = buffer.get(..count).unwrap_or_default();
            match self.work.answer(question, false) {
                Reply::Nothing => {}
                Reply::Now(reply) => send(&self.udp, &reply, client),
                further => {
                    let Ok(permit) = self.work.at_once.clone().try_acquire_owned() else {
                        tracing::debug!("more questions than can be passed on: one is dropped");
                        continue;
                    };
                    let (work, udp) = (self.work.clone(), self.udp.clone());
                    let question = question.to_vec();
                    tokio::spawn(async move {
                        if let Some(reply) = work.pass_on(&question, further, false).await {
                            send(&udp, &reply, client);
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn answer_tcp(&self) {
        loop {
            let Ok(permit) = self.work.at_once.clone().acquire_owned().await else { return };
            match self.tcp.accept().await {
                Ok((stream, _)) => {
                    let work = self.work.clone();
                    tokio::spawn(async move {
                        if let Err(error) = work.converse(stream).await {
                            tracing::debug!(%error, "a question over TCP");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the name server was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// UDP may lose an answer anyway: a full buffer is not waited for.
fn send(udp: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = udp.try_send_to(reply, client) {
        tracing::debug!(%client, %error, "an answer over UDP was not sent");
    }
}

impl Work {
    /// A defect in the reading of one question must not end the answering of all others.
    fn answer(&self, question: &[u8], over_tcp: bool) -> Reply {
        let zone = self.zone.borrow().clone();
        let answer = AssertUnwindSafe(|| answer::answer(&zone, question, over_tcp));
        catch_unwind(answer).unwrap_or(Reply::Nothing)
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let question = match timeout(SILENCE_MAX, read_message(&mut stream)).await {
                Ok(Ok(question)) => question,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let reply = match self.answer(&question, true) {
                Reply::Nothing => return Ok(()),
                Reply::Now(reply) => Some(reply),
                further => self.pass_on(&question, further, true).await,
            };
            let Some(reply) = reply else { return Ok(()) };
            timeout(SILENCE_MAX, write_message(&mut stream, &reply)).await??;
        }
    }

    /// Asks the host's name servers, one after the other.
    async fn pass_on(&self, question: &[u8], reply: Reply, over_tcp: bool) -> Option<Vec<u8>> {
        let (asked, target) = match reply {
            Reply::AskFor { question, target } => (question, Some(target)),
            Reply::Ask | Reply::Now(_) | Reply::Nothing => (question.to_vec(), None),
        };
        for server in self.upstream.iter() {
            let answer = async {
                if over_tcp {
                    ask_tcp(*server, &asked).await
                } else {
                    ask_udp(*server, &asked).await
                }
            };
            match timeout(UPSTREAM_MAX, answer).await {
                Ok(Ok(found)) => {
                    return match &target {
                        Some(target) => answer::alias(question, target, &found),
                        None => Some(found),
                    };
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server did not answer"),
            }
        }
        answer::failure(question)
    }
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Answers of others do not arrive then.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut reply = vec![0; MESSAGE_MAX];
    loop {
        let count = socket.recv(&mut reply).await?;
        if reply.get(..2) == question.get(..2) {
            reply.truncate(count);
            return Ok(reply);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, question).await?;
    read_message(&mut stream).await
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The servers that `/etc/resolv.conf` names.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_name_servers() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 127.0.0.53\nnameserver fe80::1%2\n\
                    nameserver\nnameserver\t::1 # local\n";
        let found: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53"]);
    }
}
