//! A client's frames as RFC 6455 §5 and RFC 7692 §6 have them, read the slow way: the whole stream at once, one field
//! after the other, each payload unmasked and kept. It is what the server's reader, which takes the same bytes in any
//! pieces and keeps next to nothing, is held against.

use bytes::Bytes;
use tidegate::transport::websocket::Inbound;
use tidegate::transport::websocket::guard::Fault;

use crate::inflate::{Wrong, inflate};

/// What was agreed on, and what a message may have.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most bytes in a message.
    pub message_bytes: usize,
    /// Whether messages may be compressed.
    pub deflate: bool,
}

/// What there is to know about a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What arrived, in order, up to a fault or a Close.
    pub arrived: Vec<Inbound>,
    /// What the client did wrong first.
    pub fault: Option<Fault>,
    /// Whether it ends between two messages; nothing is, after a fault.
    pub between_messages: bool,
}

/// Judges all that a client has sent.
pub fn judge(stream: &[u8], rules: Rules) -> Judgement {
    let mut reading = Reading { rest: stream, rules, open: None, arrived: Vec::new() };
    let end = loop {
        let begins = reading.rest.is_empty() && reading.open.is_none();
        match reading.frame() {
            Ok(false) => {}
            Ok(true) => break (None, true),
            Err(Stop::More) => break (None, begins),
            Err(Stop::Fault(fault)) => break (Some(fault), false),
        }
    };
    Judgement { arrived: reading.arrived, fault: end.0, between_messages: end.1 }
}

struct Reading<'a> {
    rest: &'a [u8],
    rules: Rules,
    open: Option<Open>,
    arrived: Vec<Inbound>,
}

/// A message of which frames have come, but not the last.
struct Open {
    text: bool,
    deflated: bool,
    payload: Vec<u8>,
}

enum Stop {
    More,
    Fault(Fault),
}

impl Reading<'_> {
    /// Reads one frame; whether it was a Close.
    fn frame(&mut self) -> Result<bool, Stop> {
        let first = self.take::<1>()?[0];
        let (fin, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
        self.admit(reserved, fin, opcode)?;
        let second = self.take::<1>()?[0];
        let control = opcode >= 8;
        let short = second & 0x7f;
        // §5.1, §5.5, §5.5.1.
        refuse(second & 0x80 == 0, Fault::Unmasked)?;
        refuse(control && short > 125, Fault::ControlTooLong)?;
        refuse(opcode == 8 && short == 1, Fault::CloseTooShort)?;
        let length = self.length(short)?;
        let before = self.open.as_ref().map_or(0, |open| open.payload.len());
        let deflated = self.open.as_ref().map_or(reserved != 0, |open| open.deflated);
        let most = if deflated { self.rules.deflated_bytes() } else { self.rules.message_bytes };
        refuse(!control && before as u64 + length > most as u64, Fault::MessageTooLarge)?;
        let key = self.take::<4>()?;
        let (payload, whole) = self.payload(length, key);
        if !control && opcode != 0 {
            self.open = Some(Open { text: opcode == 1, deflated, payload: Vec::new() });
        }
        match opcode {
            8 => self.close(&payload, whole),
            9 | 10 if !whole => Err(Stop::More),
            9 => Ok(self.arrive(Inbound::Ping(payload.into()))),
            10 => Ok(self.arrive(Inbound::Pong)),
            _ => self.data(fin, &payload, whole),
        }
    }

    /// §5.2, §5.4: whether a frame that begins so may come now. RFC 7692 §6: RSV1 is on the first frame of a message.
    fn admit(&self, reserved: u8, fin: bool, opcode: u8) -> Result<(), Stop> {
        refuse(reserved != 0 && !(self.rules.deflate && reserved == 0x40), Fault::ReservedBits)?;
        refuse(matches!(opcode, 3..=7 | 11..=15), Fault::UnknownOpcode)?;
        refuse(opcode >= 8 && !fin, Fault::ControlFragmented)?;
        refuse(opcode == 0 && self.open.is_none(), Fault::StrayContinuation)?;
        refuse(matches!(opcode, 1 | 2) && self.open.is_some(), Fault::Interleaved)?;
        refuse(reserved != 0 && !matches!(opcode, 1 | 2), Fault::ReservedBits)
    }

    /// §5.2: 7 bits, or 16, or 64 of which the first is 0; never more than it takes.
    fn length(&mut self, short: u8) -> Result<u64, Stop> {
        let (length, least) = match short {
            126 => (u64::from(u16::from_be_bytes(self.take()?)), 126),
            127 => (u64::from_be_bytes(self.take()?), 65_536),
            _ => (short.into(), 0),
        };
        refuse(length > i64::MAX as u64, Fault::LengthTopBit)?;
        refuse(length < least, Fault::LengthNotMinimal)?;
        Ok(length)
    }

    /// What has come of it, and whether that is all.
    fn payload(&mut self, length: u64, key: [u8; 4]) -> (Vec<u8>, bool) {
        let here = usize::try_from(length).map_or(self.rest.len(), |length| length.min(self.rest.len()));
        let (masked, rest) = self.rest.split_at(here);
        self.rest = rest;
        let payload = masked.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]).collect();
        (payload, here as u64 == length)
    }

    fn data(&mut self, fin: bool, payload: &[u8], whole: bool) -> Result<bool, Stop> {
        let all = fin && whole;
        let open = self.open.as_mut().expect("the frame has opened it, or one before");
        open.payload.extend(payload);
        // What is compressed can be read only when all of it is there.
        let readable = !open.deflated && open.text;
        refuse(readable && !may_be_text(&open.payload, all), Fault::InvalidUtf8)?;
        if !all {
            return if whole { Ok(false) } else { Err(Stop::More) };
        }
        let Some(Open { text, deflated, mut payload }) = self.open.take() else { return Ok(false) };
        if deflated {
            payload = inflate(&payload, self.rules.message_bytes).map_err(Stop::of)?;
            refuse(text && !may_be_text(&payload, true), Fault::InvalidUtf8)?;
        }
        let payload = Bytes::from(payload);
        Ok(self.arrive(if text { Inbound::Text(payload) } else { Inbound::Binary(payload) }))
    }

    fn close(&mut self, payload: &[u8], whole: bool) -> Result<bool, Stop> {
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        // §7.4.1 and IANA's registry of close codes; 3000 to 4999 are everybody's.
        let known = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        refuse(code.is_some_and(|code| !known(code)), Fault::CloseCode)?;
        let reason = payload.get(2..).unwrap_or_default();
        refuse(!may_be_text(reason, whole), Fault::InvalidUtf8)?;
        if !whole {
            return Err(Stop::More);
        }
        self.arrive(Inbound::Close(code));
        Ok(true)
    }

    fn arrive(&mut self, inbound: Inbound) -> bool {
        self.arrived.push(inbound);
        false
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Stop::More)?;
        self.rest = rest;
        Ok(*taken)
    }
}

impl Rules {
    /// What can't be compressed grows: by less than so much.
    fn deflated_bytes(self) -> usize {
        self.message_bytes + self.message_bytes / 1024 + 64
    }
}

impl Stop {
    fn of(wrong: Wrong) -> Self {
        Self::Fault(match wrong {
            Wrong::Invalid => Fault::InvalidDeflate,
            Wrong::TooLarge => Fault::MessageTooLarge,
        })
    }
}

fn refuse(when: bool, fault: Fault) -> Result<(), Stop> {
    if when { Err(Stop::Fault(fault)) } else { Ok(()) }
}

/// Whether the bytes are UTF-8 (§8.1), or could still become it if they are not all.
fn may_be_text(bytes: &[u8], all: bool) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && !all,
    }
}
