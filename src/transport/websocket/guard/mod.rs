//! The strict frame layer in front of fastwebsockets, on the reading side of a server: what RFC 6455 forbids
//! and fastwebsockets 0.10 lets pass, or answers only by dropping the socket, is found here with the close
//! code for it. The connection shows the guard every byte it reads, once and in order; what the guard calls
//! complete goes on to fastwebsockets, which then never has to wait. It does no I/O, keeps no payload and
//! unmasks nothing in place.

mod fault;
mod utf8;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

pub use fault::{Fault, Violation};

use utf8::{Utf8, rotated};

/// The longest thing read as one piece before a payload: 2 bytes, 8 of length, 4 of mask (RFC 6455 §5.2). A
/// Close frame's header has no long length, so its status code fits in as well.
const HEAD_BYTES: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7F;

/// What a guard allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most payload bytes of one message, over all its fragments; a message of exactly so many passes.
    pub message_bytes: usize,
    /// Whether permessage-deflate was agreed on: RSV1 marks a compressed message then (RFC 7692 §6).
    pub deflate: bool,
}

/// What a scan found in the bytes given to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many of them, from the first, end the last complete frame. With it, everything scanned before is
    /// complete as well; 0 means that no frame ended.
    pub complete: usize,
    /// How many frames ended, control frames included; 0 just when `complete` is.
    pub frames: usize,
    /// Payload bytes that the frame in progress still needs: at most [`Limits::message_bytes`], or 125 for a
    /// control frame. 0 between frames and while a header is incomplete. It is the client's claim: memory
    /// reserved for it is memory lent to whoever sends a header.
    pub expected: usize,
}

/// Follows the frames of one connection. Costs 64 bytes at most and no heap.
#[derive(Debug)]
pub struct Guard {
    /// 1 GB at most, whatever the limit.
    message_bytes: u32,
    /// Payload bytes that the open message has announced; never above the limit.
    announced: u32,
    deflate: bool,
    /// One is enough for messages and for a close reason between their fragments: nothing is read after a
    /// Close.
    utf8: Utf8,
    stage: Stage,
    open: Option<Kind>,
    /// The first `held` bytes of a header that came in pieces.
    head: [u8; HEAD_BYTES],
    held: u8,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Head,
    Payload(Frame),
    Closed,
    Failed(Fault),
}

/// A frame whose header has been read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    fin: bool,
    /// The mask as a little-endian number, turned so that it starts with the next payload byte's.
    key: u32,
    /// Payload bytes that have not come yet.
    left: usize,
}

/// What a frame's payload is; a continuation has the kind of the message it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
    /// Compressed, text or binary.
    Deflated,
    Close,
    /// Ping or Pong.
    Heartbeat,
}

impl Guard {
    /// A guard for a connection whose handshake has just ended.
    pub fn new(limits: Limits) -> Self {
        Self {
            message_bytes: u32::try_from(limits.message_bytes).map_or(1 << 30, |bytes| bytes.min(1 << 30)),
            deflate: limits.deflate,
            announced: 0,
            utf8: Utf8::START,
            stage: Stage::Head,
            open: None,
            head: [0; HEAD_BYTES],
            held: 0,
        }
    }

    /// Most payload bytes of one message, as [`Limits`] has it.
    pub const fn message_bytes(&self) -> usize {
        self.message_bytes as usize
    }

    /// Scans `fresh`, the bytes that came after all bytes scanned before, cut anywhere. Bytes after a Close
    /// frame are ignored (RFC 6455 §5.5.1).
    ///
    /// # Errors
    ///
    /// The first [`Violation`], at the first byte that shows it; every later call returns its fault again,
    /// with nothing complete.
    pub fn scan(&mut self, fresh: &[u8]) -> Result<Progress, Violation> {
        let mut progress = Progress::default();
        match self.walk(fresh, &mut progress) {
            Ok(()) => {
                progress.expected = if let Stage::Payload(frame) = self.stage { frame.left } else { 0 };
                Ok(progress)
            }
            Err(fault) => {
                self.stage = Stage::Failed(fault);
                Err(Violation { complete: progress.complete, frames: progress.frames, fault })
            }
        }
    }

    /// Whether the scanned bytes end between two messages: no frame has begun and no fragmented message is
    /// open. True as well after a Close, which ends whatever was open, and false after a violation.
    pub fn at_message_boundary(&self) -> bool {
        match self.stage {
            Stage::Head => self.held == 0 && self.open.is_none(),
            Stage::Closed => true,
            Stage::Payload(_) | Stage::Failed(_) => false,
        }
    }

    /// Whether a whole Close frame has come, the last frame that counts.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    fn walk(&mut self, fresh: &[u8], progress: &mut Progress) -> Result<(), Fault> {
        let mut at = 0;
        // Kept apart from `next_frame`'s result so that the loop has one call of it, small enough to inline.
        let mut resumed = match self.stage {
            Stage::Head => None,
            Stage::Payload(frame) => Some(frame),
            Stage::Closed => return Ok(()),
            Stage::Failed(fault) => return Err(fault),
        };
        loop {
            let next = match resumed.take() {
                None => self.next_frame(fresh, &mut at)?,
                frame => frame,
            };
            let Some(mut frame) = next else { break };
            at += self.payload(&mut frame, &fresh[at..])?;
            if frame.left > 0 {
                self.stage = Stage::Payload(frame);
                return Ok(());
            }
            progress.complete = at;
            progress.frames += 1;
            if frame.kind == Kind::Close {
                self.stage = Stage::Closed;
                return Ok(());
            }
        }
        self.stage = Stage::Head;
        Ok(())
    }

    /// Reads the header at `at` and moves behind it; None when its end has not come.
    #[inline]
    fn next_frame(&mut self, fresh: &[u8], at: &mut usize) -> Result<Option<Frame>, Fault> {
        if self.held == 0
            && let Some((frame, size)) = self.parse(&fresh[*at..])?
        {
            *at += size;
            self.enter(frame);
            return Ok(Some(frame));
        }
        self.assemble(fresh, at)
    }

    /// Takes a header that was cut byte by byte, so that it fails on the same byte as one that came whole.
    #[cold]
    fn assemble(&mut self, fresh: &[u8], at: &mut usize) -> Result<Option<Frame>, Fault> {
        for byte in &fresh[*at..] {
            self.head[usize::from(self.held)] = *byte;
            self.held += 1;
            *at += 1;
            if let Some((frame, _)) = self.parse(&self.head[..usize::from(self.held)])? {
                self.held = 0;
                self.enter(frame);
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Begins a frame. What a data frame changes in its message changes here already: no other header is read
    /// before the frame's end.
    #[inline]
    fn enter(&mut self, frame: Frame) {
        match frame.kind {
            Kind::Text | Kind::Binary | Kind::Deflated if frame.fin => {
                self.open = None;
                self.announced = 0;
            }
            Kind::Text | Kind::Binary | Kind::Deflated => {
                self.open = Some(frame.kind);
                self.announced += u32::try_from(frame.left).expect("a frame keeps the limit");
            }
            Kind::Close => self.utf8 = Utf8::START,
            Kind::Heartbeat => {}
        }
    }

    /// Takes what `rest` holds of the frame's payload and returns how much that is.
    #[inline]
    fn payload(&mut self, frame: &mut Frame, rest: &[u8]) -> Result<usize, Fault> {
        let here = rest.len().min(frame.left);
        frame.left -= here;
        if matches!(frame.kind, Kind::Text | Kind::Close) {
            let ends = frame.left == 0 && frame.fin;
            if !self.utf8.feed(&rest[..here], frame.key) || (ends && !self.utf8.is_whole()) {
                return Err(Fault::InvalidUtf8);
            }
        }
        frame.key = rotated(frame.key, here);
        Ok(here)
    }

    /// Reads a header as far as `bytes` go, each field checked before the next, and returns it with its size;
    /// None when more bytes are needed. A Close frame's status code counts as a part of its header.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "a call per frame, its result through memory, costs as much as the work"
    )]
    fn parse(&self, bytes: &[u8]) -> Result<Option<(Frame, usize)>, Fault> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let (kind, fin) = self.admit(*first)?;
        let Some((second, rest)) = rest.split_first() else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Fault::Unmasked);
        }
        let short = second & LENGTH;
        let control = matches!(kind, Kind::Close | Kind::Heartbeat);
        if control && short > 125 {
            return Err(Fault::ControlTooLong);
        }
        if kind == Kind::Close && short == 1 {
            return Err(Fault::CloseTooShort);
        }
        let Some((left, rest)) = length(short, rest)? else { return Ok(None) };
        if !control && left > self.most(kind) - self.announced as usize {
            return Err(Fault::MessageTooLarge);
        }
        let Some((key, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let key = u32::from_le_bytes(*key);
        let size = bytes.len() - rest.len();
        if kind == Kind::Close && left > 0 {
            let Some([high, low]) = rest.first_chunk() else { return Ok(None) };
            let [high_key, low_key, ..] = key.to_le_bytes();
            if !is_wire_code(u16::from_be_bytes([high ^ high_key, low ^ low_key])) {
                return Err(Fault::CloseCode);
            }
            return Ok(Some((Frame { kind, fin, key: rotated(key, 2), left: left - 2 }, size + 2)));
        }
        Ok(Some((Frame { kind, fin, key, left }, size)))
    }

    /// Whether a frame with this first byte may come now, and what it would be.
    #[inline]
    fn admit(&self, first: u8) -> Result<(Kind, bool), Fault> {
        if first & RESERVED != 0 {
            return self.admit_marked(first);
        }
        let fin = first & FIN != 0;
        let kind = match (first & OPCODE, self.open) {
            (0x0, Some(kind)) => kind,
            (0x0, None) => return Err(Fault::StrayContinuation),
            (0x1, None) => Kind::Text,
            (0x2, None) => Kind::Binary,
            (0x1 | 0x2, Some(_)) => return Err(Fault::Interleaved),
            (0x8..=0xA, _) if !fin => return Err(Fault::ControlFragmented),
            (0x8, _) => Kind::Close,
            (0x9 | 0xA, _) => Kind::Heartbeat,
            _ => return Err(Fault::UnknownOpcode),
        };
        Ok((kind, fin))
    }

    /// The same for one with reserved bits: RSV1 is on the first frame of a compressed message, and nowhere else
    /// (RFC 7692 §6.1).
    #[cold]
    fn admit_marked(&self, first: u8) -> Result<(Kind, bool), Fault> {
        if !self.deflate || first & RESERVED != RSV1 {
            return Err(Fault::ReservedBits);
        }
        match self.admit(first & !RSV1)? {
            (Kind::Text | Kind::Binary, fin) if first & OPCODE != 0 => Ok((Kind::Deflated, fin)),
            _ => Err(Fault::ReservedBits),
        }
    }

    /// Most payload bytes of a message. What can't be compressed grows by some bytes per block (RFC 1951 §3.2.4); how
    /// long it really is shows when it is inflated.
    #[inline]
    fn most(&self, kind: Kind) -> usize {
        let bytes = self.message_bytes();
        if kind == Kind::Deflated { bytes + bytes / 1024 + 64 } else { bytes }
    }
}

/// Reads the payload length that the 7 bits `short` begin, in its shortest form only (RFC 6455 §5.2).
#[inline]
fn length(short: u8, rest: &[u8]) -> Result<Option<(usize, &[u8])>, Fault> {
    match short {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u16::from_be_bytes(*bytes);
            if length < 126 {
                return Err(Fault::LengthNotMinimal);
            }
            Ok(Some((length.into(), rest)))
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*bytes);
            if length >> 63 != 0 {
                return Err(Fault::LengthTopBit);
            }
            if length <= u16::MAX.into() {
                return Err(Fault::LengthNotMinimal);
            }
            let length = usize::try_from(length).map_err(|_| Fault::MessageTooLarge)?;
            Ok(Some((length, rest)))
        }
        _ => Ok(Some((short.into(), rest))),
    }
}

/// Whether a client may send this status code: those that RFC 6455 §7.4.1 defines for the wire, those that
/// IANA has registered since (1012–1014), and the ranges that §7.4.2 leaves to libraries and applications.
fn is_wire_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
