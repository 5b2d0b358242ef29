//! Messages to the kernel (netlink(7)): written, sent together, and answered.
//!
//! The crates that know nf_tables don't fit: one calls the program `nft`, one needs a C library, one numbers an
//! attribute wrongly. What they would do for us is in this file.

use std::io;

use netlink_sys::{Socket, SocketAddr};

// Types and flags of netlink(7).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ACK_HAS_ATTRIBUTES: u16 = 0x200;
/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
const WORDS: u16 = 1;
/// The size of a header, and of an attribute's.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

/// Replaces what is there.
pub(super) const REPLACE: u16 = 0x100;
/// Refuses if it is there.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// Makes it if it is not there.
pub(super) const CREATE: u16 = 0x400;
/// Puts it behind the others.
pub(super) const APPEND: u16 = 0x800;

/// Attributes under construction. Numbers are in the byte order that their name says: nf_tables has the network's,
/// routing the machine's.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // No value of ours comes near 64 KiB: sets are filled in portions.
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn ne32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// The attributes in a message, or in another attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..ATTRIBUTE)?.try_into().ok()?);
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// A request.
#[derive(Debug)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// The header is that of the family: a few bytes before the attributes.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8], attributes: &Attributes) -> Self {
        Self { kind, flags: flags | ACK, body: [header, &attributes.0].concat() }
    }

    /// One that is never answered, unless it is wrong.
    pub(super) fn unanswered(mut self) -> Self {
        self.flags &= !ACK;
        self
    }
}

/// A socket to one part of the kernel.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// `NETLINK_ROUTE`
    pub(super) const ROUTE: isize = 0;
    /// `NETLINK_NETFILTER`
    pub(super) const NETFILTER: isize = 12;

    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Answers say what was wrong, and don't repeat what was asked.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends messages as one, and waits until each is answered.
    pub(super) fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let first = self.write(messages, 0)?;
        let mut open = messages.iter().filter(|message| message.flags & ACK != 0).count();
        while open > 0 {
            let (datagram, _) = self.socket.recv_from_full()?;
            for answer in answers(&datagram).filter(|answer| answer.sequence >= first) {
                if answer.kind == ERROR {
                    outcome(&answer, first)?;
                    open = open.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Asks for all there are of something; returns what follows the header of each.
    pub(super) fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let first = self.write(&[message.unanswered()], DUMP)?;
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for answer in answers(&datagram).filter(|answer| answer.sequence >= first) {
                match answer.kind {
                    DONE => return Ok(found),
                    ERROR => {
                        outcome(&answer, first)?;
                        return Ok(found);
                    }
                    _ => found.push(answer.body.to_vec()),
                }
            }
        }
    }

    /// Returns the number of the first.
    fn write(&mut self, messages: &[Message], flags: u16) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let length = u32::try_from(HEADER + message.body.len()).unwrap_or(u32::MAX);
            datagram.extend(length.to_ne_bytes());
            datagram.extend(message.kind.to_ne_bytes());
            datagram.extend((message.flags | flags | REQUEST).to_ne_bytes());
            datagram.extend(self.sequence.to_ne_bytes());
            // The port: the kernel knows who asks.
            datagram.extend(0_u32.to_ne_bytes());
            datagram.extend(&message.body);
        }
        let sent = self.socket.send(&datagram, 0)?;
        if sent == datagram.len() { Ok(first) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| Some(u32::from_ne_bytes(datagram.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_ne_bytes(datagram.get(at..at + 2)?.try_into().ok()?));
        let length = usize::try_from(word(0)?).ok()?;
        let (kind, flags, sequence) = (half(4)?, half(6)?, word(8)?);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, flags, sequence, body })
    })
}

/// What became of a message, with the kernel's words and which of the messages it was.
fn outcome(answer: &Answer<'_>, first: u32) -> io::Result<()> {
    let code = answer.body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(-code);
    let said = (answer.flags & ACK_HAS_ATTRIBUTES != 0).then(|| answer.body.get(4 + HEADER..)).flatten();
    let said = said.and_then(|said| attributes(said).find(|(kind, _)| *kind == WORDS));
    let words = said.map(|(_, words)| String::from_utf8_lossy(words).trim_end_matches('\0').to_owned());
    let (kind, number) = (error.kind(), answer.sequence.wrapping_sub(first));
    let words = words.unwrap_or_else(|| error.to_string());
    Err(io::Error::new(kind, Refused { code: -code, text: format!("message {number}: {words}") }))
}

/// The kernel's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refused {
    code: i32,
    text: String,
}

/// The error's number, also if the kernel had words for it.
pub(super) fn code(error: &io::Error) -> Option<i32> {
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>());
    refused.map(|refused| refused.code).or_else(|| error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let inner = Attributes::new().be32(1, 7).text(2, "abc");
        let outer = Attributes::new().bytes(3, &[9]).nest(4, &inner).ne32(5, 8);
        let read: Vec<(u16, &[u8])> = attributes(&outer.0).collect();
        assert_eq!(read, [(3, &[9][..]), (4, &inner.0), (5, &8_u32.to_ne_bytes())]);
        let read: Vec<(u16, &[u8])> = attributes(&inner.0).collect();
        assert_eq!(read, [(1, &[0, 0, 0, 7][..]), (2, b"abc\0")]);
    }

    #[test]
    fn nonsense_ends_the_reading() {
        for nonsense in [&[][..], &[1], &[0; 8], &[255, 255, 1, 0, 0], &[3, 0, 1, 0]] {
            assert!(attributes(nonsense).count() <= 1, "{nonsense:?}");
            assert_eq!(answers(nonsense).count(), 0, "{nonsense:?}");
        }
    }
}
