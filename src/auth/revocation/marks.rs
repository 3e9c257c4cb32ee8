//! Small numbers by which the connections that a revocation may concern are found among very many: who shares one has to
//! look, who does not is left alone.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use super::{Revocation, Whose};
use crate::auth::identity::Identity;

/// What a connection can be found by: numbers that its token shares with one in 65,536 others, who then look in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Of its user.
    pub user: u16,
    /// Of its token; 0 without a `jti`.
    pub token: u16,
}

/// The marks of those whose tokens were revoked: who has one of them has to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    users: Vec<u16>,
    tokens: Vec<u16>,
}

/// A `jti`, as far as it has to be remembered for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::auth) struct TokenId(NonZeroU64);

impl Marks {
    /// Those of nobody.
    pub const NONE: Self = Self { user: 0, token: 0 };

    /// Those of that identity.
    pub fn of(identity: &Identity) -> Self {
        if identity.is_guest() {
            return Self::NONE;
        }
        Self { user: mark(&identity.user_id), token: identity.token_id.map_or(0, TokenId::mark) }
    }
}

impl Revoked {
    /// Whether a token with these marks may be among them.
    pub fn concerns(&self, marks: Marks) -> bool {
        self.users.binary_search(&marks.user).is_ok() || self.tokens.binary_search(&marks.token).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.tokens.is_empty()
    }

    pub(super) fn add(&mut self, revocation: &Revocation) {
        match &revocation.whose {
            Whose::User(sub) => self.users.push(mark(sub)),
            Whose::Token(jti) => self.tokens.push(TokenId::new(jti).mark()),
        }
    }

    pub(super) fn sort(&mut self) {
        for marks in [&mut self.users, &mut self.tokens] {
            marks.sort_unstable();
            marks.dedup();
        }
    }
}

impl TokenId {
    /// Nobody but the issuer chooses a `jti`, and there are few at a time: 64 bits are not met twice.
    pub(in crate::auth) fn new(jti: &str) -> Self {
        let digest: [u8; 20] = Sha1::digest(jti).into();
        let number = u64::from_be_bytes(digest[..8].try_into().expect("eight of twenty"));
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }

    fn mark(self) -> u16 {
        let [a, b, ..] = self.0.get().to_be_bytes();
        u16::from_be_bytes([a, b]).max(1)
    }
}

/// Never that of nobody.
fn mark(user: &str) -> u16 {
    let [a, b, ..] = crc32fast::hash(user.as_bytes()).to_be_bytes();
    u16::from_be_bytes([a, b]).max(1)
}
