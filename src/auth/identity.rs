//! Who a client is and what it may do: the sender of its messages, its grants, and when they end. Made from a
//! verified token, or from nothing for a guest; shared by every connection of one token. Never holds the token.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;

use super::claims::Claimed;
use super::grants::Grants;
use super::revocation::TokenId;
use crate::channel::ChannelName;
use crate::config::{Access, Namespace};

/// What every guest's `user_id` begins with. Reserved: no token can carry such a `sub`.
pub const GUEST_PREFIX: &str = "guest-";

/// What kind of client this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Came without a token, where `auth.mode` allows that.
    Guest,
    /// A person's client.
    User,
    /// A backend (claim `role: "server"`): may send anywhere, under its own quota.
    Server,
}

/// Who a client is. Kept behind an `Arc`, one per token and not per connection.
#[derive(Debug)]
pub struct Identity {
    /// The `sender_id` of its messages: the token's `sub`, or `guest-…`.
    pub user_id: Arc<str>,
    /// What kind of client it is.
    pub role: Role,
    /// The claim `info`, shown in presence: JSON without whitespace between its tokens, at most
    /// [`MAX_INFO_BYTES`](super::claims::MAX_INFO_BYTES).
    pub info: Option<Arc<RawValue>>,
    /// When the token runs out, in milliseconds since 1970.
    pub(super) expires_ms: Option<NonZeroU64>,
    /// When the token was issued, in whole seconds since 1970; 0 if that is not known, so before any revocation.
    pub(super) issued_at: u32,
    /// The claim `jti`, if there is one.
    pub(super) token_id: Option<TokenId>,
    /// Shared by all tokens with the same; `None` if nothing is granted.
    pub(super) grants: Option<Arc<Grants>>,
    inbox: Inbox,
}

/// Whether `user:{user_id}` is this identity's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inbox {
    Own,
    /// Several people may share the identity, so nothing is private to it.
    None,
}

impl Identity {
    /// What is allocated for one with a name of 16 bytes, in blocks; reference counts are two words.
    pub const BLOCKS: [usize; 2] = [2 * size_of::<usize>() + size_of::<Self>(), 2 * size_of::<usize>() + 16];

    /// A guest for the life of one connection, with a random name.
    pub fn guest_of_connection() -> Self {
        Self::guest(&rand::random::<[u8; 9]>(), Inbox::Own)
    }

    /// The guest that is everyone at that address, the same in every request while the process lives, so that HTTP
    /// requests without a token have one presence and one quota. Owns no inbox: others behind the same NAT would
    /// read it.
    pub fn guest_of_address(address: IpAddr, salt: &GuestSalt) -> Self {
        Self::guest(&salt.0.hash_one(address.to_canonical()).to_be_bytes(), Inbox::None)
    }

    /// When the token runs out, to a millisecond; `None` for guests, who have none.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_ms.map(|since| SystemTime::UNIX_EPOCH + Duration::from_millis(since.get()))
    }

    /// How long its token is still good; `None` for guests. At most some decades, so that no clock overflows.
    pub fn expires_in(&self) -> Option<Duration> {
        self.expires_after(SystemTime::now())
    }

    /// The same from that moment on.
    pub fn expires_after(&self, now: SystemTime) -> Option<Duration> {
        let left = self.expires_at()?.duration_since(now).unwrap_or_default();
        Some(left.min(Duration::from_secs(1 << 30)))
    }

    /// Whether it came without a token.
    pub fn is_guest(&self) -> bool {
        self.role == Role::Guest
    }

    /// Whether it may read a channel: join it, see its presence and its history.
    ///
    /// A grant always counts, one that only says `*` too. Beyond grants, `user:{sub}` opens to its owner alone,
    /// whatever its namespace says.
    pub fn may_join(&self, channel: &ChannelName, settings: &Namespace) -> bool {
        if self.grants.as_ref().is_some_and(|grants| grants.may_join(channel.as_str())) {
            return true;
        }
        match channel.inbox_owner() {
            Some(owner) => self.inbox == Inbox::Own && *self.user_id == *owner,
            None => self.is_within(settings.join),
        }
    }

    /// Whether it may send to a channel. An inbox is like any other channel here: who may write to people is the
    /// setting `send` of the namespace `user`.
    pub fn may_send(&self, channel: &ChannelName, settings: &Namespace) -> bool {
        self.role == Role::Server
            || self.grants.as_ref().is_some_and(|grants| grants.may_send(channel.as_str()))
            || self.is_within(settings.send)
    }

    pub(super) fn of_token(claimed: Claimed) -> Self {
        let Claimed { user_id, role, info, expires_at, issued_at, token_id, grants } = claimed;
        let (expires_ms, grants) = (Some(milliseconds(expires_at)), grants.shared());
        Self { user_id, role, info, expires_ms, issued_at, token_id, grants, inbox: Inbox::Own }
    }

    fn guest(name: &[u8], inbox: Inbox) -> Self {
        let user_id = format!("{GUEST_PREFIX}{}", URL_SAFE_NO_PAD.encode(name)).into();
        Self {
            user_id,
            role: Role::Guest,
            info: None,
            expires_ms: None,
            issued_at: 0,
            token_id: None,
            grants: None,
            inbox,
        }
    }

    fn is_within(&self, access: Access) -> bool {
        match access {
            Access::Anyone => true,
            Access::Authenticated => !self.is_guest(),
            Access::Granted => false,
        }
    }
}

/// The random key, new in every process, that turns addresses into guests' names: a name does not tell its address
/// (a plain hash would; there are only 2³² of them).
#[derive(Clone, Debug, Default)]
pub struct GuestSalt(RandomState);

impl GuestSalt {
    /// A new random key.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Since 1970; one at least.
fn milliseconds(at: SystemTime) -> NonZeroU64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // What no clock reaches is as good as the last moment that one can name.
    let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(1 << 52);
    NonZeroU64::new(since).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(join: &[&str], send: &[&str], role: Role) -> Identity {
        Identity::of_token(Claimed {
            user_id: "bob".into(),
            role,
            info: None,
            expires_at: SystemTime::UNIX_EPOCH,
            issued_at: 0,
            token_id: None,
            grants: Grants::parse(join, send).unwrap(),
        })
    }

    fn open_to(access: Access) -> Namespace {
        Namespace { join: access, send: access, ..Namespace::default() }
    }

    fn name(name: &str) -> ChannelName {
        name.parse().unwrap()
    }

    /// There is one for each connection; the allocator has no size between 80 and 96.
    #[test]
    fn an_identity_and_its_counts_fit_their_size_class() {
        assert!(size_of::<Identity>() + 2 * size_of::<usize>() <= 96);
    }

    #[test]
    fn a_namespace_opens_to_anyone_to_users_or_to_grants() {
        let guest = Identity::guest_of_connection();
        let user = user(&[], &[], Role::User);
        let table = [
            (Access::Anyone, true, true),
            (Access::Authenticated, false, true),
            (Access::Granted, false, false),
        ];
        for (access, guest_may, user_may) in table {
            let (channel, settings) = (name("chat:lobby"), open_to(access));
            assert_eq!(guest.may_join(&channel, &settings), guest_may, "{access:?}");
            assert_eq!(guest.may_send(&channel, &settings), guest_may, "{access:?}");
            assert_eq!(user.may_join(&channel, &settings), user_may, "{access:?}");
            assert_eq!(user.may_send(&channel, &settings), user_may, "{access:?}");
        }
    }

    #[test]
    fn grants_to_join_and_to_send_are_apart() {
        let user = user(&["chat:*"], &["chat:lobby"], Role::User);
        let closed = open_to(Access::Granted);
        assert!(user.may_join(&name("chat:den"), &closed));
        assert!(!user.may_send(&name("chat:den"), &closed));
        assert!(user.may_send(&name("chat:lobby"), &closed));
        assert!(!user.may_join(&name("news"), &closed));
    }

    #[test]
    fn an_inbox_opens_to_its_owner_and_to_grants_only() {
        let (mine, other) = (name("user:bob"), name("user:eve"));
        for access in [Access::Anyone, Access::Authenticated, Access::Granted] {
            let settings = open_to(access);
            let bob = user(&[], &[], Role::User);
            assert!(bob.may_join(&mine, &settings), "{access:?}");
            assert!(!bob.may_join(&other, &settings), "{access:?}");
            assert!(!bob.may_join(&name("user:bob:x"), &settings), "{access:?}");
            assert!(user(&["user:eve"], &[], Role::User).may_join(&other, &settings), "{access:?}");
            assert!(user(&["*"], &[], Role::User).may_join(&other, &settings), "{access:?}");
            assert!(!user(&[], &["*"], Role::Server).may_join(&other, &settings), "{access:?}");
        }
    }

    #[test]
    fn sends_to_an_inbox_follow_the_namespace() {
        let (bob, inbox) = (user(&[], &[], Role::User), name("user:eve"));
        assert!(bob.may_send(&inbox, &open_to(Access::Authenticated)));
        assert!(!bob.may_send(&inbox, &open_to(Access::Granted)));
        // Owning an inbox is no right to write to it.
        assert!(!bob.may_send(&name("user:bob"), &open_to(Access::Granted)));
    }

    #[test]
    fn a_server_sends_anywhere_and_joins_like_others() {
        let server = user(&["chat:*"], &[], Role::Server);
        let closed = open_to(Access::Granted);
        assert!(server.may_send(&name("user:eve"), &closed));
        assert!(server.may_send(&name("anything"), &closed));
        assert!(server.may_join(&name("chat:lobby"), &closed));
        assert!(!server.may_join(&name("news"), &closed));
    }

    #[test]
    fn guests_of_connections_differ_and_own_their_inbox() {
        let (one, two) = (Identity::guest_of_connection(), Identity::guest_of_connection());
        assert_ne!(one.user_id, two.user_id);
        assert!(one.is_guest() && one.user_id.starts_with(GUEST_PREFIX) && one.expires_at().is_none());
        let inbox = name(&format!("user:{}", one.user_id));
        assert!(one.may_join(&inbox, &open_to(Access::Granted)));
        assert!(!two.may_join(&inbox, &open_to(Access::Anyone)));
    }

    #[test]
    fn guests_of_an_address_are_stable_and_tell_nothing() {
        let salt = GuestSalt::new();
        let guest =
            |ip: &str, salt: &GuestSalt| Identity::guest_of_address(ip.parse().unwrap(), salt).user_id;
        assert_eq!(guest("192.0.2.1", &salt), guest("192.0.2.1", &salt));
        assert_eq!(guest("192.0.2.1", &salt), guest("::ffff:192.0.2.1", &salt));
        assert_ne!(guest("192.0.2.1", &salt), guest("192.0.2.2", &salt));
        assert_ne!(guest("192.0.2.1", &salt), guest("192.0.2.1", &GuestSalt::new()));
        assert!(guest("192.0.2.1", &salt).starts_with(GUEST_PREFIX));
    }

    #[test]
    fn a_guest_of_an_address_has_no_inbox() {
        let guest = Identity::guest_of_address("192.0.2.1".parse().unwrap(), &GuestSalt::new());
        let inbox = name(&format!("user:{}", guest.user_id));
        assert!(!guest.may_join(&inbox, &open_to(Access::Anyone)));
    }
}
