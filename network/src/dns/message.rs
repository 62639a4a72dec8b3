//! One DNS message in, one out (RFC 1035, RFC 6891).

use std::net::IpAddr;
use std::sync::Arc;

use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

use super::names::{Names, reverse};

/// What a client without EDNS takes in one datagram.
const PLAIN: usize = 512;
/// What we say that we take, and the most that is sent: no path fragments it (DNS flag day 2020).
const EDNS: u16 = 1232;
/// Containers come and go: nobody is to remember.
const TTL: u32 = 0;

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Others may know.
    Forward,
    /// It is not a query at all.
    Ignore,
}

/// Decides from the names that are known here. `forwards` says whether there is anyone to ask.
pub(crate) fn step(query: &[u8], names: &[Arc<dyn Names>], forwards: bool, turn: usize) -> Step {
    let Ok(packet) = Packet::parse(query) else {
        return match query {
            [a, b, flags, ..] if query.len() >= 12 && flags & 0x80 == 0 => {
                Step::Answer(bare(u16::from_be_bytes([*a, *b]), RCODE::FormatError))
            }
            _ => Step::Ignore,
        };
    };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Step::Ignore;
    }
    let [question] = &packet.questions[..] else {
        return Step::Answer(bare(packet.id(), RCODE::FormatError));
    };
    if packet.opcode() != OPCODE::StandardQuery {
        return Step::Answer(reply(&packet, question, RCODE::NotImplemented, Vec::new()));
    }
    match local(question, names, turn) {
        Some(Ok(answers)) => Step::Answer(reply(&packet, question, RCODE::NoError, answers)),
        Some(Err(code)) => Step::Answer(reply(&packet, question, code, Vec::new())),
        None if forwards => Step::Forward,
        None => Step::Answer(reply(&packet, question, RCODE::Refused, Vec::new())),
    }
}

/// The answer that follows from the names alone, if they say anything.
fn local<'a>(
    question: &Question<'a>,
    names: &[Arc<dyn Names>],
    turn: usize,
) -> Option<Result<Vec<ResourceRecord<'a>>, RCODE>> {
    let name = question.qname.to_string().to_ascii_lowercase();
    let wanted = |kind: TYPE| question.qtype == QTYPE::TYPE(kind) || question.qtype == QTYPE::ANY;
    let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data);
    if let Some(address) = reverse(&name) {
        return match names.iter().find_map(|n| n.name(address)) {
            Some(target) if wanted(TYPE::PTR) => {
                let target = Name::new(&target).ok()?.into_owned();
                Some(Ok(vec![record(RData::PTR(PTR(target)))]))
            }
            Some(_) => Some(Ok(Vec::new())),
            None => names.iter().any(|n| n.covers(address)).then_some(Err(RCODE::NameError)),
        };
    }
    let found: Vec<_> = names.iter().filter_map(|n| n.addresses(&name)).collect();
    if found.is_empty() {
        // No top-level domain has addresses; a typing error in a container's name is not the world's to know.
        return (!name.contains('.')).then_some(Err(RCODE::NameError));
    }
    let mut addresses: Vec<IpAddr> = found.into_iter().flatten().collect();
    let first = turn % addresses.len().max(1);
    addresses.rotate_left(first);
    let data = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(v4) if wanted(TYPE::A) => Some(RData::A(A { address: v4.into() })),
        IpAddr::V6(v6) if wanted(TYPE::AAAA) => Some(RData::AAAA(AAAA { address: v6.into() })),
        _ => None,
    });
    // A name without an address of the kind exists all the same: an empty answer, not "no such name".
    Some(Ok(data.map(record).collect()))
}

fn reply<'a>(
    query: &Packet<'a>,
    question: &Question<'a>,
    code: RCODE,
    answers: Vec<ResourceRecord<'a>>,
) -> Vec<u8> {
    let mut packet = Packet::new_reply(query.id());
    *packet.opcode_mut() = query.opcode();
    *packet.rcode_mut() = code;
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    if query.opt().is_some() {
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: EDNS, version: 0 });
    }
    packet.questions.push(question.clone());
    packet.answers = answers;
    packet.build_bytes_vec_compressed().unwrap_or_else(|_| bare(query.id(), RCODE::ServerFailure))
}

/// An error without a question, for what could not be read.
fn bare(id: u16, code: RCODE) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    vec![a, b, 0x80, code as u8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The answer to a query that nobody could answer.
pub(crate) fn failure(query: &[u8]) -> Vec<u8> {
    error(query, RCODE::ServerFailure, false)
}

/// What fits the client's datagrams; else an empty answer that sends it to TCP.
pub(crate) fn fit(query: &[u8], answer: Vec<u8>) -> Vec<u8> {
    let limit = Packet::parse(query).ok().and_then(|p| p.opt().map(|opt| opt.udp_packet_size));
    let limit = limit.map_or(PLAIN, |size| usize::from(size.min(EDNS)).max(PLAIN));
    if answer.len() <= limit { answer } else { error(query, RCODE::NoError, true) }
}

fn error(query: &[u8], code: RCODE, truncated: bool) -> Vec<u8> {
    let id = u16::from_be_bytes(query.first_chunk().copied().unwrap_or_default());
    let Ok(packet) = Packet::parse(query) else { return bare(id, code) };
    let Some(question) = packet.questions.first() else { return bare(id, code) };
    let mut bytes = reply(&packet, question, code, Vec::new());
    if truncated && let Some(flags) = bytes.get_mut(2) {
        *flags |= 0x02;
    }
    bytes
}

/// Whether a server's answer settles the matter: it answers this question, and not by declining.
pub(crate) fn settles(query: &[u8], answer: &[u8]) -> Option<bool> {
    const SERVFAIL: u8 = 2;
    const REFUSED: u8 = 5;
    let is_reply = answer.get(2)? & 0x80 != 0;
    let same = is_reply && question(answer)?.eq_ignore_ascii_case(question(query)?);
    same.then(|| !matches!(answer[3] & 0x0f, SERVFAIL | REFUSED))
}

/// The bytes of the first question; it comes first in a message, so nothing in it is compressed.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = 12;
    loop {
        match usize::from(*message.get(end)?) {
            0 => break,
            length @ 1..=63 => end += 1 + length,
            _ => return None,
        }
    }
    message.get(12..end + 5)
}

#[cfg(test)]
mod tests {
    use super::super::MemoryNames;
    use super::*;

    fn query(name: &str, kind: TYPE, edns: bool) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet.questions.push(Question::new(name, kind.into(), CLASS::IN.into(), false));
        if edns {
            *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: 4096, version: 0 });
        }
        packet.build_bytes_vec().unwrap()
    }

    fn names() -> Vec<Arc<dyn Names>> {
        let names = MemoryNames::new();
        names.set("web", &[[10, 0, 0, 2].into(), [10, 0, 0, 3].into()]);
        let many: Vec<IpAddr> = (0..50).map(|n| [10, 0, 1, n].into()).collect();
        names.set("many", &many);
        vec![Arc::new(names)]
    }

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize) {
        let Step::Answer(bytes) = step(&query(name, kind, false), &names(), true, 0) else {
            panic!("{name}")
        };
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.id() == 7 && packet.has_flags(PacketFlag::RESPONSE) && packet.questions.len() == 1);
        (packet.rcode(), packet.answers.len())
    }

    #[test]
    fn names_are_answered_here_and_the_rest_is_not() {
        assert_eq!(ask("web", TYPE::A), (RCODE::NoError, 2));
        assert_eq!(ask("WeB", TYPE::A), (RCODE::NoError, 2));
        assert_eq!(ask("web", TYPE::AAAA), (RCODE::NoError, 0), "no data, not no name");
        assert_eq!(ask("web", TYPE::MX), (RCODE::NoError, 0));
        assert_eq!(ask("wob", TYPE::A), (RCODE::NameError, 0));
        assert_eq!(ask("2.0.0.10.in-addr.arpa", TYPE::PTR), (RCODE::NoError, 1));
        let elsewhere = query("example.org", TYPE::A, false);
        assert_eq!(step(&elsewhere, &names(), true, 0), Step::Forward);
        let Step::Answer(refused) = step(&elsewhere, &names(), false, 0) else { panic!() };
        assert_eq!(Packet::parse(&refused).unwrap().rcode(), RCODE::Refused);
    }

    #[test]
    fn answers_take_turns() {
        let first = |turn| {
            let Step::Answer(bytes) = step(&query("web", TYPE::A, false), &names(), true, turn) else {
                panic!()
            };
            format!("{:?}", Packet::parse(&bytes).unwrap().answers[0].rdata)
        };
        assert_ne!(first(0), first(1));
        assert_eq!(first(0), first(2));
    }

    #[test]
    fn what_does_not_fit_is_truncated() {
        let plain = query("many", TYPE::A, false);
        let Step::Answer(answer) = step(&plain, &names(), true, 0) else { panic!() };
        assert!(answer.len() > PLAIN);
        let short = fit(&plain, answer.clone());
        let packet = Packet::parse(&short).unwrap();
        assert!(
            packet.has_flags(PacketFlag::TRUNCATION) && packet.answers.is_empty() && short.len() <= PLAIN
        );
        assert_eq!(fit(&query("many", TYPE::A, true), answer.clone()), answer);
    }

    #[test]
    fn answers_of_others_must_be_to_the_question() {
        let asked = query("example.org", TYPE::A, false);
        let answer = |code| error(&asked, code, false);
        assert_eq!(settles(&asked, &answer(RCODE::NoError)), Some(true));
        assert_eq!(settles(&asked, &answer(RCODE::NameError)), Some(true));
        assert_eq!(settles(&asked, &answer(RCODE::ServerFailure)), Some(false));
        assert_eq!(
            settles(&asked, &error(&query("example.net", TYPE::A, false), RCODE::NoError, false)),
            None
        );
        assert_eq!(settles(&asked, &asked), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Step::Answer(answer) = step(&bytes, &names(), true, 3) {
                proptest::prop_assert!(answer[..2] == bytes[..2]);
            }
            let _ = (fit(&bytes, bytes.clone()), settles(&bytes, &bytes), failure(&bytes));
        }
    }
}
