//! Tokens that the edge accepts, minted as an application's backend would.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// Mints HS256 tokens that are good for a day.
#[derive(Clone)]
pub struct Minter {
    key: EncodingKey,
}

impl Minter {
    /// The secret of the edges that the checks start themselves. It guards nothing.
    pub const SECRET: &str = "conformance-checks-sign-with-this-one";

    /// Signs with that secret.
    pub fn new(secret: &str) -> Self {
        Self { key: EncodingKey::from_secret(secret.as_bytes()) }
    }

    /// A user's token.
    pub fn user(&self, sub: &str) -> String {
        self.mint(&json!({"sub": sub, "exp": tomorrow(), "channels": {"join": ["*"], "send": ["*"]}}))
    }

    /// A backend's token.
    pub fn server(&self, sub: &str) -> String {
        self.mint(&json!({"sub": sub, "exp": tomorrow(), "role": "server", "channels": {"join": ["*"]}}))
    }

    /// A token with these claims and no others.
    ///
    /// # Panics
    /// If the claims are no JSON object.
    pub fn mint(&self, claims: &serde_json::Value) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.key).expect("claims are JSON")
    }
}

fn tomorrow() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    (now + Duration::from_hours(24)).as_secs()
}
