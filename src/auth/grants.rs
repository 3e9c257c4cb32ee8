//! The channels a token names in its claim `channels`: exact names, or prefixes that end in `*`. Parsed once with the
//! token, asked at every join and send. Knows nothing of namespaces and their settings.

use crate::channel::ChannelName;

/// Patterns of one token, `join` and `send` together. More than people write by hand, few enough to be compared one
/// by one; 256 × 200 bytes could not even fit a token.
pub const MAX_PATTERNS: usize = 256;

/// What a token grants.
#[derive(Debug, Default)]
pub(super) struct Grants {
    join: Box<[Pattern]>,
    send: Box<[Pattern]>,
}

impl Grants {
    /// # Errors
    /// What is wrong with the claim, for a person; never its content.
    pub(super) fn parse<S: AsRef<str>>(join: &[S], send: &[S]) -> Result<Self, &'static str> {
        if join.len() + send.len() > MAX_PATTERNS {
            return Err("channels has more than 256 patterns");
        }
        Ok(Self { join: patterns(join)?, send: patterns(send)? })
    }

    /// The patterns as they were written: those of `join`, those of `send`.
    pub(super) fn written(&self) -> [Vec<String>; 2] {
        [&self.join, &self.send].map(|patterns| patterns.iter().map(Pattern::written).collect())
    }

    pub(super) fn may_join(&self, channel: &str) -> bool {
        self.join.iter().any(|pattern| pattern.covers(channel))
    }

    pub(super) fn may_send(&self, channel: &str) -> bool {
        self.send.iter().any(|pattern| pattern.covers(channel))
    }
}

/// A channel's name, or the beginning of one.
#[derive(Debug)]
enum Pattern {
    Exact(ChannelName),
    Prefix(Box<str>),
}

impl Pattern {
    fn parse(pattern: &str) -> Result<Self, &'static str> {
        const REFUSED: &str = "a pattern in channels is no channel name with at most one * at its end";
        match pattern.strip_suffix('*') {
            Some("") => Ok(Self::Prefix("".into())),
            // A prefix is made of what names are made of, so a second `*` is refused here.
            Some(prefix) if prefix.parse::<ChannelName>().is_ok() => Ok(Self::Prefix(prefix.into())),
            Some(_) => Err(REFUSED),
            None => pattern.parse().map(Self::Exact).map_err(|_| REFUSED),
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Exact(name) => name.as_str().to_owned(),
            Self::Prefix(prefix) => format!("{prefix}*"),
        }
    }

    fn covers(&self, channel: &str) -> bool {
        match self {
            Self::Exact(name) => name.as_str() == channel,
            Self::Prefix(prefix) => channel.starts_with(&**prefix),
        }
    }
}

fn patterns<S: AsRef<str>>(list: &[S]) -> Result<Box<[Pattern]>, &'static str> {
    list.iter().map(|pattern| Pattern::parse(pattern.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_a_name_or_a_prefix() {
        let table = [
            ("chat:lobby", "chat:lobby", true),
            ("chat:lobby", "chat:lobby2", false),
            ("chat:lobby", "Chat:lobby", false),
            ("chat:*", "chat:lobby", true),
            ("chat:*", "chat:", true),
            ("chat:*", "chat", false),
            ("chat:*", "chats:lobby", false),
            ("chat*", "chats:lobby", true),
            ("*", "anything", true),
        ];
        for (pattern, channel, covered) in table {
            let grants = Grants::parse(&[pattern], &[]).unwrap();
            assert_eq!(grants.may_join(channel), covered, "{pattern} {channel}");
            assert!(!grants.may_send(channel));
        }
    }

    #[test]
    fn a_star_stands_at_the_end_or_the_claim_is_refused() {
        for bad in ["", "*chat", "chat:*:x", "**", "chat:**", "a b", "a b*", "ä*", &"a".repeat(201)] {
            assert!(Grants::parse(&[bad], &[]).is_err(), "{bad:?}");
            assert!(Grants::parse(&[], &[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_are_bounded_over_both_lists() {
        let many = ["a"; MAX_PATTERNS];
        assert!(Grants::parse(&many, &[]).is_ok());
        assert!(Grants::parse(&many, &["b"]).is_err());
    }
}
