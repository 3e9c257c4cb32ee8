//! A token that was found good is good again while nothing has changed: who asks often with the same one, as a poll does,
//! need not have its signature computed each time. Kept by a connection, for the last token that came on it; made and
//! judged by [`Authenticator`](super::Authenticator) alone. Holds no token, only a keyed hash of one.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use super::identity::Identity;

/// Who a token was for, and what it is known by.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who it was for.
    pub who: Arc<Identity>,
    /// Which token it was, and when.
    pub proof: Proof,
}

/// Which token it was, by which keys it was verified, and when.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    digest: [u64; 2],
    keys: NonZeroU32,
    /// In whole seconds since 1970.
    at: u32,
}

/// Turns tokens into digests, by hashes that nobody outside can aim at: whoever could would at best pass for who asked
/// before it on the same connection.
#[derive(Debug, Default)]
pub(super) struct Digests([RandomState; 2]);

impl Digests {
    pub(super) fn of(&self, token: &str) -> [u64; 2] {
        [self.0[0].hash_one(token), self.0[1].hash_one(token)]
    }
}

impl Known {
    pub(super) fn new(who: Arc<Identity>, digest: [u64; 2], keys: NonZeroU32, now: SystemTime) -> Self {
        Self { who, proof: Proof { digest, keys, at: seconds(now) } }
    }

    /// Whether that token, now and with these keys, would be found good as it was. A clock that was set back might
    /// come before its `nbf`.
    pub(super) fn holds(&self, digest: [u64; 2], keys: NonZeroU32, now: SystemTime) -> bool {
        self.proof.digest == digest && self.proof.stands(&self.who, keys, now)
    }
}

impl Proof {
    /// The same, where it is known to be that token; `who` is whose it is.
    pub(super) fn stands(&self, who: &Identity, keys: NonZeroU32, now: SystemTime) -> bool {
        self.keys == keys && self.at <= seconds(now) && who.expires_at().is_some_and(|end| now < end)
    }
}

fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::auth::testing::{Files, Signer, bob, hs256, with_jwks, with_secret};
    use crate::auth::{AuthError, Authenticator};

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_token_is_the_same_one_until_it_runs_out() {
        let edge = Authenticator::new(&with_secret()).unwrap();
        let token = hs256(&json!({"sub": "bob", "exp": NOW + 60, "nbf": NOW}));
        let mut known = None;
        let mut ask = |token: &str, now| edge.verify_again_at(token, &mut known, at(now));
        let bob = ask(&token, NOW).unwrap();
        // It is not made again: what was found before is given.
        assert!(Arc::ptr_eq(&bob, &ask(&token, NOW + 59).unwrap()));
        assert_eq!(ask(&token, NOW + 60).unwrap_err(), AuthError::Expired);
        assert_eq!(ask(&token, NOW - 31).unwrap_err(), AuthError::NotYetValid);
        assert!(Arc::ptr_eq(&bob, &ask(&token, NOW + 1).unwrap()));
    }

    #[test]
    fn another_token_is_another_one() {
        let edge = Authenticator::new(&with_secret()).unwrap();
        let (bob, eve) = (hs256(&bob()), hs256(&json!({"sub": "eve", "exp": NOW + 60})));
        let mut known = None;
        let mut ask = |token: &str| edge.verify_again_at(token, &mut known, at(NOW - 1_000_000_000));
        for _ in 0..2 {
            assert_eq!(&*ask(&bob).unwrap().user_id, "bob");
            // Of the last one all but its signature, or but its end: no part of it stands for the whole.
            let (message, signature) = bob.rsplit_once('.').unwrap();
            assert_eq!(
                ask(&format!("{message}.{}", "A".repeat(signature.len()))).unwrap_err(),
                AuthError::BadSignature
            );
            assert!(ask(&bob[..bob.len() - 1]).is_err());
            assert_eq!(&*ask(&eve).unwrap().user_id, "eve");
        }
    }

    #[test]
    fn a_token_whose_key_was_taken_away_is_not_known_any_more() {
        let (files, old, new) = (Files::new(), Signer::ec(), Signer::ec());
        let edge = Authenticator::new(&with_jwks(files.jwks(&[old.jwk(Some("old"))]))).unwrap();
        let token = old.token_with(&bob(), |header| header.kid = Some("old".to_owned()));
        let mut known = None;
        edge.verify_again(&token, &mut known).unwrap();
        files.jwks(&[old.jwk(Some("old")), new.jwk(Some("new"))]);
        edge.reload().unwrap();
        edge.verify_again(&token, &mut known).unwrap();
        files.jwks(&[new.jwk(Some("new"))]);
        edge.reload().unwrap();
        assert_eq!(edge.verify_again(&token, &mut known).unwrap_err(), AuthError::UnknownKey);
    }
}
