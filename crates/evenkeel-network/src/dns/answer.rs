//! From the bytes of a question to those of an answer, without I/O.

use std::net::Ipv4Addr;

use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, CNAME, OPT, PTR, RData, SOA, SRV},
};

use super::zone::{DOMAIN, Known, Record, Zone};

/// Seconds that a client may keep an answer. **Source**: `CoreDNS`, plugin `kubernetes`.
const TTL: u32 = 5;
/// Longest answer over UDP unless the question allows more. **Source**: RFC 1035, 4.2.1.
pub(super) const UDP_BYTES: usize = 512;
/// Longest answer over UDP at all: what passes every network. **Source**: DNS flag day 2020.
const UDP_BYTES_MAX: usize = 1232;

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// This is the answer.
    Now(Vec<u8>),
    /// The host's name servers know the answer.
    Ask,
    /// It is another name for `target`, which the host's name servers know: ask them, and give the
    /// result to [`alias`].
    AskFor { question: Vec<u8>, target: String },
    /// These are no bytes of a question.
    Nothing,
}

/// Answers a question. An answer of more bytes than the client can take is cut, and says so.
pub(super) fn answer(zone: &Zone, bytes: &[u8], over_tcp: bool) -> Reply {
    let Ok(query) = Packet::parse(bytes) else { return Reply::Nothing };
    if query.has_flags(PacketFlag::RESPONSE) {
        return Reply::Nothing;
    }
    let [question] = query.questions.as_slice() else {
        return finish(refused(&query, RCODE::FormatError), usize::MAX);
    };
    if query.opcode() != OPCODE::StandardQuery {
        return finish(refused(&query, RCODE::NotImplemented), usize::MAX);
    }
    let limit = if over_tcp {
        usize::from(u16::MAX)
    } else {
        let allowed = query.opt().map_or(UDP_BYTES, |opt| usize::from(opt.udp_packet_size));
        allowed.clamp(UDP_BYTES, UDP_BYTES_MAX)
    };
    let name = question.qname.to_string();
    match zone.look_up(&name) {
        Known::NotOurs => Reply::Ask,
        Known::Nowhere => finish(nothing(&query, RCODE::NameError), limit),
        Known::Empty => finish(nothing(&query, RCODE::NoError), limit),
        Known::Records(records) => {
            if let [Record::Alias(target)] = records.as_slice()
                && !wants(question, TYPE::CNAME)
            {
                return to_alias(zone, &query, target, limit);
            }
            let mut reply = reply_to(&query, RCODE::NoError);
            add_records(zone, &mut reply, &name, &records, &query);
            if reply.answers.is_empty() {
                return finish(nothing(&query, RCODE::NoError), limit);
            }
            finish(reply, limit)
        }
    }
}

/// The answer to `bytes`, whose name stands for `target`, from what was found out about that.
pub(super) fn alias(bytes: &[u8], target: &str, found: &[u8]) -> Option<Vec<u8>> {
    let (query, found) = (Packet::parse(bytes).ok()?, Packet::parse(found).ok()?);
    let mut reply = reply_to(&query, found.rcode());
    let question = query.questions.first()?;
    reply.answers.push(alias_record(&question.qname.to_string(), target)?);
    if found.has_flags(PacketFlag::TRUNCATION) {
        // The client asks again over TCP.
        reply.set_flags(PacketFlag::TRUNCATION);
    }
    reply.answers.extend(found.answers.into_iter().map(ResourceRecord::into_owned));
    reply.build_bytes_vec_compressed().ok()
}

/// The answer that says that none could be had.
pub(super) fn failure(bytes: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(bytes).ok()?;
    reply_to(&query, RCODE::ServerFailure).build_bytes_vec_compressed().ok()
}

fn to_alias(zone: &Zone, query: &Packet<'_>, target: &str, limit: usize) -> Reply {
    let Some(question) = query.questions.first() else { return Reply::Nothing };
    let name = question.qname.to_string();
    let records = match zone.look_up(target) {
        Known::NotOurs => {
            let mut further = Packet::new_query(query.id());
            further.set_flags(PacketFlag::RECURSION_DESIRED);
            let Ok(target_name) = Name::new(target) else {
                return finish(refused(query, RCODE::ServerFailure), limit);
            };
            further.questions.push(Question::new(
                target_name,
                question.qtype,
                QCLASS::CLASS(CLASS::IN),
                false,
            ));
            let bytes = further.build_bytes_vec();
            return bytes.map_or(Reply::Nothing, |question| Reply::AskFor {
                question,
                target: target.to_owned(),
            });
        }
        Known::Records(records) => records,
        Known::Empty | Known::Nowhere => Vec::new(),
    };
    let mut reply = reply_to(query, RCODE::NoError);
    reply.answers.extend(alias_record(&name, target));
    add_records(zone, &mut reply, target, &records, query);
    finish(reply, limit)
}

fn wants(question: &Question<'_>, kind: TYPE) -> bool {
    matches!(question.qtype, QTYPE::ANY) || question.qtype == QTYPE::TYPE(kind)
}

/// Adds what was asked for. Addresses begin with a different one each time, so that clients that
/// take the first one are spread.
fn add_records(
    zone: &Zone,
    reply: &mut Packet<'_>,
    name: &str,
    records: &[&Record],
    query: &Packet<'_>,
) {
    let Some(question) = query.questions.first() else { return };
    let first = usize::from(query.id()).checked_rem(records.len()).unwrap_or_default();
    let (end, start) = records.split_at(first);
    for record in start.iter().chain(end) {
        match record {
            Record::Address(address) if wants(question, TYPE::A) => {
                reply.answers.extend(record_of(name, address_data(*address)));
            }
            Record::Port(target) if wants(question, TYPE::SRV) => {
                let Some(target_name) = owned(&target.name) else { continue };
                let (priority, weight, port) = (0, 100, target.port);
                let data = SRV { priority, weight, port, target: target_name };
                reply.answers.extend(record_of(name, RData::SRV(data)));
                let Known::Records(found) = zone.look_up(&target.name) else { continue };
                for one in found {
                    let Record::Address(address) = one else { continue };
                    let more = record_of(&target.name, address_data(*address));
                    reply.additional_records.extend(more);
                }
            }
            Record::Name(target) if wants(question, TYPE::PTR) => {
                let data = owned(target).map(|name| RData::PTR(PTR(name)));
                reply.answers.extend(data.and_then(|data| record_of(name, data)));
            }
            Record::Alias(target) => reply.answers.extend(alias_record(name, target)),
            Record::Address(_) | Record::Port(_) | Record::Name(_) => {}
        }
    }
}

fn address_data(address: Ipv4Addr) -> RData<'static> {
    RData::A(A { address: address.into() })
}

fn alias_record(name: &str, target: &str) -> Option<ResourceRecord<'static>> {
    record_of(name, RData::CNAME(CNAME(owned(target)?)))
}

fn record_of(name: &str, data: RData<'static>) -> Option<ResourceRecord<'static>> {
    Some(ResourceRecord::new(owned(name)?, CLASS::IN, TTL, data))
}

fn owned(name: &str) -> Option<Name<'static>> {
    Name::new(name).ok().map(Name::into_owned)
}

fn reply_to<'a>(query: &Packet<'_>, code: RCODE) -> Packet<'a> {
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    *reply.rcode_mut() = code;
    reply.questions.extend(query.questions.iter().cloned().map(Question::into_owned));
    if query.opt().is_some() {
        let udp_packet_size = u16::try_from(UDP_BYTES_MAX).unwrap_or(u16::MAX);
        *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size, version: 0 });
    }
    reply
}

fn refused<'a>(query: &Packet<'_>, code: RCODE) -> Packet<'a> {
    let mut reply = Packet::new_reply(query.id());
    *reply.rcode_mut() = code;
    reply
}

/// Nothing here, and how long that may be remembered.
fn nothing<'a>(query: &Packet<'_>, code: RCODE) -> Packet<'a> {
    let mut reply = reply_to(query, code);
    let names = owned(&format!("ns.dns.{DOMAIN}")).zip(owned(&format!("hostmaster.{DOMAIN}")));
    if let Some((mname, rname)) = names {
        let data = SOA {
            mname,
            rname,
            serial: 1,
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: TTL,
        };
        reply.name_servers.extend(record_of(DOMAIN, RData::SOA(data)));
    }
    reply
}

fn finish(mut reply: Packet<'_>, limit: usize) -> Reply {
    let Ok(bytes) = reply.build_bytes_vec_compressed() else { return Reply::Nothing };
    if bytes.len() <= limit {
        return Reply::Now(bytes);
    }
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.additional_records.clear();
    while reply.answers.pop().is_some() {
        let shorter = reply.build_bytes_vec_compressed();
        if let Ok(shorter) = shorter
            && shorter.len() <= limit
        {
            return Reply::Now(shorter);
        }
    }
    Reply::Nothing
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::dns::zone::Target;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let ip = |last| Record::Address(Ipv4Addr::new(10, 244, 0, last));
        zone.add("web.shop.svc.cluster.local", Record::Address(Ipv4Addr::new(10, 96, 0, 7)));
        zone.add_reverse(Ipv4Addr::new(10, 96, 0, 7), "web.shop.svc.cluster.local");
        zone.add("db.shop.svc.cluster.local", ip(4));
        zone.add("db.shop.svc.cluster.local", ip(5));
        zone.add("db-0.db.shop.svc.cluster.local", ip(4));
        let target = Target { name: "db-0.db.shop.svc.cluster.local".to_owned(), port: 5432 };
        zone.add("_sql._tcp.db.shop.svc.cluster.local", Record::Port(target));
        zone.add("out.shop.svc.cluster.local", Record::Alias("example.org".to_owned()));
        zone.add(
            "in.shop.svc.cluster.local",
            Record::Alias("web.shop.svc.cluster.local".to_owned()),
        );
        zone
    }

    fn question(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(2);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        let class = QCLASS::CLASS(CLASS::IN);
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), class, false));
        packet.build_bytes_vec().unwrap()
    }

    fn said(name: &str, kind: TYPE) -> String {
        match answer(&zone(), &question(name, kind), false) {
            Reply::Now(bytes) => text(&bytes),
            other => format!("{other:?}").chars().take(60).collect(),
        }
    }

    fn text(bytes: &[u8]) -> String {
        let reply = Packet::parse(bytes).unwrap();
        let mut out = format!("{:?}", reply.rcode());
        for (mark, records) in [("", &reply.answers), (" +", &reply.additional_records)] {
            for record in records {
                let data = match &record.rdata {
                    RData::A(a) => Ipv4Addr::from(a.address).to_string(),
                    RData::SRV(srv) => format!("{}:{}", srv.target, srv.port),
                    RData::PTR(PTR(name)) | RData::CNAME(CNAME(name)) => name.to_string(),
                    other => format!("{other:?}"),
                };
                write!(out, "{mark} {data}").unwrap();
            }
        }
        out
    }

    #[test]
    fn names_of_the_cluster() {
        let table = [
            ("web.shop.svc.cluster.local", TYPE::A, "NoError 10.96.0.7"),
            ("WEB.Shop.svc.cluster.local", TYPE::A, "NoError 10.96.0.7"),
            ("web.shop.svc.cluster.local", TYPE::AAAA, "NoError"),
            ("web.shop.svc.cluster.local", TYPE::MX, "NoError"),
            ("db.shop.svc.cluster.local", TYPE::A, "NoError 10.244.0.4 10.244.0.5"),
            ("db-0.db.shop.svc.cluster.local", TYPE::A, "NoError 10.244.0.4"),
            (
                "_sql._tcp.db.shop.svc.cluster.local",
                TYPE::SRV,
                "NoError db-0.db.shop.svc.cluster.local:5432 + 10.244.0.4",
            ),
            ("7.0.96.10.in-addr.arpa", TYPE::PTR, "NoError web.shop.svc.cluster.local"),
            // A name with others below it exists, though it has no records.
            ("shop.svc.cluster.local", TYPE::A, "NoError"),
            ("cluster.local", TYPE::A, "NoError"),
            ("no.shop.svc.cluster.local", TYPE::A, "NameError"),
            ("example.org.shop.svc.cluster.local", TYPE::A, "NameError"),
            ("9.0.96.10.in-addr.arpa", TYPE::PTR, "NameError"),
            ("example.org", TYPE::A, "Ask"),
            ("notcluster.local", TYPE::A, "Ask"),
            ("1.1.168.192.in-addr.arpa", TYPE::PTR, "Ask"),
            ("in.shop.svc.cluster.local", TYPE::A, "NoError web.shop.svc.cluster.local 10.96.0.7"),
            ("in.shop.svc.cluster.local", TYPE::CNAME, "NoError web.shop.svc.cluster.local"),
        ];
        for (name, kind, expected) in table {
            assert_eq!(said(name, kind), expected, "{name} {kind:?}");
        }
    }

    #[test]
    fn an_alias_is_followed_outside() {
        let asked = question("out.shop.svc.cluster.local", TYPE::A);
        let Reply::AskFor { question: further, target } = answer(&zone(), &asked, false) else {
            unreachable!("an alias outside of the zone is asked for")
        };
        assert_eq!(target, "example.org");
        let asked_outside = Packet::parse(&further).unwrap();
        assert_eq!(asked_outside.questions[0].qname.to_string(), "example.org");
        let mut found = Packet::new_reply(2);
        let address = address_data(Ipv4Addr::new(192, 0, 2, 1));
        found.answers.extend(record_of("example.org", address));
        let found = found.build_bytes_vec().unwrap();
        let merged = alias(&asked, &target, &found).unwrap();
        assert_eq!(text(&merged), "NoError example.org 192.0.2.1");
        assert_eq!(text(&failure(&asked).unwrap()), "ServerFailure");
    }

    #[test]
    fn an_answer_that_is_too_long_is_cut_and_says_so() {
        let mut zone = zone();
        for last in 0..100 {
            let record = Record::Address(Ipv4Addr::new(10, 244, 1, last));
            zone.add("many.shop.svc.cluster.local", record);
        }
        let asked = question("many.shop.svc.cluster.local", TYPE::A);
        let cut = |over_tcp| {
            let Reply::Now(bytes) = answer(&zone, &asked, over_tcp) else { return (0, 0, false) };
            let reply = Packet::parse(&bytes).unwrap();
            (bytes.len(), reply.answers.len(), reply.has_flags(PacketFlag::TRUNCATION))
        };
        let (bytes, records, is_cut) = cut(false);
        assert!(bytes <= UDP_BYTES && records > 20 && is_cut, "{bytes} {records} {is_cut}");
        assert!(matches!(cut(true), (_, 100, false)));
    }

    #[test]
    fn bytes_that_are_no_question_are_not_answered() {
        assert_eq!(answer(&zone(), b"", false), Reply::Nothing);
        assert_eq!(answer(&zone(), &[0xff; 40], false), Reply::Nothing);
        let reply = Packet::new_reply(1).build_bytes_vec().unwrap();
        assert_eq!(answer(&zone(), &reply, false), Reply::Nothing);
        let empty = Packet::new_query(1).build_bytes_vec().unwrap();
        let Reply::Now(refusal) = answer(&zone(), &empty, false) else { unreachable!() };
        assert_eq!(text(&refusal), "FormatError");
    }
}
