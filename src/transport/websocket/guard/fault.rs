//! What a client can do wrong on the frame layer: the faults the guard finds, each with the close code it
//! ends the connection with. The connection turns one into its Close frame; nothing here speaks of channels
//! or envelopes, and nothing here is the server's fault.

use thiserror::Error;

use crate::deflate::InflateError;

/// A client's breach of the frame layer. Displays as its [reason](Fault::reason).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("{}", self.reason())]
pub enum Fault {
    /// A client's frame without a mask (RFC 6455 §5.1).
    Unmasked,
    /// A reserved bit without an extension that gives it a meaning (RFC 6455 §5.2).
    ReservedBits,
    /// An opcode that RFC 6455 §5.2 reserves (0x3–0x7, 0xB–0xF).
    UnknownOpcode,
    /// A control frame without FIN (RFC 6455 §5.5).
    ControlFragmented,
    /// A control frame that announces more than 125 bytes (RFC 6455 §5.5).
    ControlTooLong,
    /// A continuation frame while no message is open (RFC 6455 §5.4).
    StrayContinuation,
    /// A text or binary frame while a fragmented message is open (RFC 6455 §5.4).
    Interleaved,
    /// A 64-bit length with its most significant bit set (RFC 6455 §5.2).
    LengthTopBit,
    /// A length in more bytes than it needs (RFC 6455 §5.2).
    LengthNotMinimal,
    /// A Close payload of one byte, too short for a status code (RFC 6455 §5.5.1).
    CloseTooShort,
    /// A status code that must not be on the wire (RFC 6455 §7.4).
    CloseCode,
    /// Bytes in a text message or a close reason that are not UTF-8, or end within a character (RFC 6455
    /// §8.1).
    InvalidUtf8,
    /// A compressed message that can't be inflated (RFC 7692 §7.2.2).
    InvalidDeflate,
    /// A message that announces, or holds when inflated, more than the limit over its fragments.
    MessageTooLarge,
}

impl Fault {
    /// The status code to close with: RFC 6455 §7.4.1's, or the service's own 4005.
    pub const fn code(self) -> u16 {
        match self {
            Self::InvalidUtf8 | Self::InvalidDeflate => 1007,
            Self::MessageTooLarge => 4005,
            _ => 1002,
        }
    }

    /// What to tell the client: ASCII, well below the 123 bytes a Close frame has for it (RFC 6455 §5.5).
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unmasked => "frame is not masked",
            Self::ReservedBits => "reserved bits are set",
            Self::UnknownOpcode => "unknown opcode",
            Self::ControlFragmented => "control frame is fragmented",
            Self::ControlTooLong => "control frame is longer than 125 bytes",
            Self::StrayContinuation => "continuation without a message",
            Self::Interleaved => "new message inside a fragmented one",
            Self::LengthTopBit => "length has its top bit set",
            Self::LengthNotMinimal => "length is not in its shortest form",
            Self::CloseTooShort => "close payload of one byte",
            Self::CloseCode => "invalid close code",
            Self::InvalidUtf8 => "text is not valid UTF-8",
            Self::InvalidDeflate => "compressed data is invalid",
            Self::MessageTooLarge => "message too large",
        }
    }
}

impl From<InflateError> for Fault {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::Invalid => Self::InvalidDeflate,
            InflateError::TooLarge => Self::MessageTooLarge,
        }
    }
}

/// A fault, and how far the bytes given with it were good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{fault}")]
pub struct Violation {
    /// How many of the scanned bytes, from the first, end the last valid frame; they are to be served before
    /// the connection is closed. 0: no frame ended among them.
    pub complete: usize,
    /// How many valid frames ended within those bytes.
    pub frames: usize,
    /// What was wrong with the bytes after them.
    pub fault: Fault,
}
