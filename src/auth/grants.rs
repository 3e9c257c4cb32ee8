//! The channels a token names in its claim `channels`: exact names, or prefixes that end in `*`. Parsed once with the
//! token, asked at every join and send. Knows nothing of namespaces and their settings.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::channel::ChannelName;

/// Patterns of one token, `join` and `send` together. More than people write by hand, few enough to be compared one
/// by one; 256 × 200 bytes could not even fit a token.
pub const MAX_PATTERNS: usize = 256;

/// What a token grants.
#[derive(Debug, PartialEq, Eq, Hash)]
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

    /// Behind a count; nothing for nothing.
    pub(super) fn shared(self) -> Option<Arc<Self>> {
        (!self.join.is_empty() || !self.send.is_empty()).then(|| Arc::new(self))
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

/// What tokens grant, once each: most of an issuer's tokens differ in their subject alone, and every connection would
/// else hold a copy.
#[derive(Debug, Default)]
pub(super) struct AllGrants {
    table: Mutex<Table>,
}

/// Those that are in use, and some that were.
#[derive(Debug, Default)]
struct Table {
    known: HashSet<Arc<Grants>>,
    /// How many there may be before it is looked which of them are still in use.
    look_at: usize,
}

/// Grants that nobody uses and that may be held beside twice those in use: of 16 KB each, with the longest tokens.
const UNUSED_MAX: usize = 256;

impl AllGrants {
    /// The same that are known already, if there are.
    pub(super) fn share(&self, grants: Arc<Grants>) -> Arc<Grants> {
        let mut table = self.table.lock();
        if let Some(known) = table.known.get(&grants) {
            return Arc::clone(known);
        }
        if table.known.len() >= table.look_at {
            table.forget();
        }
        table.known.insert(Arc::clone(&grants));
        grants
    }

    /// Forgets those that nobody uses.
    pub(super) fn sweep(&self) {
        self.table.lock().forget();
    }
}

impl Table {
    fn forget(&mut self) {
        self.known.retain(|grants| Arc::strong_count(grants) > 1);
        self.look_at = 2 * self.known.len() + UNUSED_MAX;
        self.known.shrink_to(self.look_at);
    }
}

/// A channel's name, or the beginning of one.
#[derive(Debug, PartialEq, Eq, Hash)]
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
    fn the_same_is_held_once_and_what_nobody_uses_is_forgotten() {
        let all = AllGrants::default();
        let of = |join: &str| all.share(Grants::parse(&[join], &["chat:*"]).unwrap().shared().unwrap());
        let one = of("news");
        for number in 0..10_000 {
            of(&format!("chat:{number}"));
        }
        assert!(all.table.lock().known.len() <= 2 + UNUSED_MAX);
        assert!(Arc::ptr_eq(&one, &of("news")) && !Arc::ptr_eq(&one, &of("news*")));
        assert!(Grants::parse(&[] as &[&str], &[]).unwrap().shared().is_none());
    }

    #[test]
    fn patterns_are_bounded_over_both_lists() {
        let many = ["a"; MAX_PATTERNS];
        assert!(Grants::parse(&many, &[]).is_ok());
        assert!(Grants::parse(&many, &["b"]).is_err());
    }
}
