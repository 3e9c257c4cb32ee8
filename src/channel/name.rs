//! The name of a channel, parsed once at the door: whoever holds a [`ChannelName`] holds a valid one.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// 1 to 200 bytes of `A–Z a–z 0–9 _ - . : @ = / !`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Longest name, in bytes.
pub const MAX_BYTES: usize = 200;

/// Why a string is no channel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("a channel name is empty")]
    Empty,
    /// Longer than [`MAX_BYTES`].
    #[error("a channel name is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// A character that names may not have.
    #[error("a channel name may hold A-Z a-z 0-9 _ - . : @ = / ! only")]
    Character,
}

impl ChannelName {
    /// The name as the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first `:`, whose settings apply.
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once(':').map(|(namespace, _)| namespace)
    }

    /// Whose private inbox this is: `SUB` of `user:SUB`.
    pub fn inbox_owner(&self) -> Option<&str> {
        self.0.strip_prefix("user:")
    }
}

impl FromStr for ChannelName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        match name.len() {
            0 => return Err(NameError::Empty),
            1..=MAX_BYTES => {}
            _ => return Err(NameError::TooLong),
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@=/!".contains(&byte);
        if name.bytes().all(legal) { Ok(Self(name.into())) } else { Err(NameError::Character) }
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_plain() {
        assert_eq!("".parse::<ChannelName>(), Err(NameError::Empty));
        assert!("a".repeat(200).parse::<ChannelName>().is_ok());
        assert_eq!("a".repeat(201).parse::<ChannelName>(), Err(NameError::TooLong));
        assert!("chat:lobby_-.:@=/!Z9".parse::<ChannelName>().is_ok());
        for bad in ["a b", "a,b", "a*", "ä", "a\0", "a\n"] {
            assert_eq!(bad.parse::<ChannelName>(), Err(NameError::Character), "{bad:?}");
        }
    }

    #[test]
    fn namespace_ends_at_the_first_colon() {
        let name = |name: &str| name.parse::<ChannelName>().unwrap();
        assert_eq!(name("chat:a:b").namespace(), Some("chat"));
        assert_eq!(name("lobby").namespace(), None);
        assert_eq!(name("user:bob").inbox_owner(), Some("bob"));
        assert_eq!(name("users:bob").inbox_owner(), None);
    }
}
