//! An identity on its way from the node that verified its token to another one that trusts it: the answer to a ticket.
//! Between nodes alone; a client never sees it and can't send one.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::claims::Claimed;
use super::grants::Grants;
use super::identity::{Identity, Role};
use super::revocation::TokenId;

/// What a token said. Nodes of other versions may know more or less: fields are only ever added.
#[derive(Serialize, Deserialize)]
struct Carried {
    sub: String,
    /// Milliseconds since 1970.
    exp: u64,
    #[serde(default)]
    iat: u32,
    #[serde(default)]
    jti: Option<TokenId>,
    #[serde(default)]
    server: bool,
    #[serde(default)]
    info: Option<Box<RawValue>>,
    join: Vec<String>,
    send: Vec<String>,
}

impl Identity {
    /// As bytes for another node; `None` for a guest, who has no token.
    pub fn to_carry(&self) -> Option<Vec<u8>> {
        let exp = self.expires_at()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let [join, send] = self.grants.as_ref().map(|grants| grants.written()).unwrap_or_default();
        let carried = Carried {
            sub: self.user_id.to_string(),
            exp: u64::try_from(exp.as_millis()).ok()?,
            iat: self.issued_at,
            jti: self.token_id,
            server: self.role == Role::Server,
            info: self.info.as_deref().map(ToOwned::to_owned),
            join,
            send,
        };
        serde_json::to_vec(&carried).ok()
    }

    /// From such bytes; `None` if they are none.
    pub fn from_carried(bytes: &[u8]) -> Option<Self> {
        let carried: Carried = serde_json::from_slice(bytes).ok()?;
        Some(Self::of_token(Claimed {
            user_id: carried.sub.into(),
            role: if carried.server { Role::Server } else { Role::User },
            info: carried.info.map(Into::into),
            expires_at: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(carried.exp))?,
            issued_at: carried.iat,
            token_id: carried.jti,
            grants: Grants::parse(&carried.join, &carried.send).ok()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing::{hs256, seconds_from_now, with_secret};
    use crate::auth::{Authenticator, Marks};

    #[test]
    fn an_identity_arrives_as_it_left() {
        let claims = json!({
            "sub": "auth0|bøb", "exp": seconds_from_now(60), "iat": seconds_from_now(-5), "jti": "t-1",
            "role": "server", "info": {"name": "Bob", "n": 12_345_678_901_234_567_890_u64},
            "channels": {"join": ["chat:*", "news", "*"], "send": ["chat:lobby"]},
        });
        let left = Authenticator::new(&with_secret()).unwrap().verify(&hs256(&claims)).unwrap();
        let arrived = Identity::from_carried(&left.to_carry().unwrap()).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{left:?}"));
        assert_eq!(Marks::of(&arrived), Marks::of(&left));
    }

    #[test]
    fn the_least_arrives_too() {
        let claims = json!({"sub": "bob", "exp": seconds_from_now(60)});
        let left = Authenticator::new(&with_secret()).unwrap().verify(&hs256(&claims)).unwrap();
        let arrived = Identity::from_carried(&left.to_carry().unwrap()).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{left:?}"));
    }

    #[test]
    fn a_guest_is_not_carried_and_noise_is_nobody() {
        assert!(Identity::guest_of_connection().to_carry().is_none());
        for noise in ["", "null", "{}", "[]", r#"{"sub":"a","exp":-1,"join":[],"send":[]}"#] {
            assert!(Identity::from_carried(noise.as_bytes()).is_none(), "{noise}");
        }
    }
}
