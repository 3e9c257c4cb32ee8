//! Verifies tokens (JWT in JWS compact form, RFC 7519, RFC 7515 §7.1) with the configured keys, and takes new keys
//! while it runs. Called for every token that a client presents; never fetches keys, never logs a token.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use parking_lot::RwLock;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::AuthError;
use super::claims::Expected;
use super::grants::AllGrants;
use super::identity::Identity;
use super::keys::{KeyError, Keys};
use super::known::{Digests, Known, Proof};
use crate::config;

/// Longest token, in bytes: what fits a request's head, and bounds what a signature is computed over.
pub const MAX_TOKEN_BYTES: usize = 16_384;

/// Knows the keys and what is expected of a token. One per process, shared by all connections.
#[derive(Debug)]
pub struct Authenticator {
    /// Where the keys come from; its `Debug` hides the secret.
    settings: config::Auth,
    expected: Expected,
    keys: RwLock<Arc<Keys>>,
    /// How often there were new ones.
    reloads: AtomicU32,
    digests: Digests,
    /// What the tokens of those who are connected grant.
    grants: AllGrants,
}

impl Authenticator {
    /// Reads the keys. Blocks on the file system.
    ///
    /// # Errors
    /// A setting or file that gives no keys, where keys are needed.
    pub fn new(settings: &config::Auth) -> Result<Self, KeyError> {
        Ok(Self {
            expected: Expected { issuer: settings.issuer.clone(), audience: settings.audience.clone() },
            keys: RwLock::new(Arc::new(Keys::load(settings)?)),
            reloads: AtomicU32::new(0),
            digests: Digests::default(),
            settings: settings.clone(),
            grants: AllGrants::default(),
        })
    }

    /// Reads the key files again. Tokens verified before keep their identity; those that come after see only the new
    /// keys. Blocks on the file system.
    ///
    /// # Errors
    /// As [`Authenticator::new`]; then the keys stay as they were.
    pub fn reload(&self) -> Result<(), KeyError> {
        let keys = Arc::new(Keys::load(&self.settings)?);
        *self.keys.write() = keys;
        // After the keys: who sees the new number verifies with the new ones.
        self.reloads.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The files that [`Authenticator::reload`] reads.
    pub fn watched_files(&self) -> Vec<PathBuf> {
        [&self.settings.jwks_file, &self.settings.public_key_file].into_iter().flatten().cloned().collect()
    }

    /// Forgets what only tokens of those who have gone grant. To be called every minute or so.
    pub fn sweep(&self) {
        self.grants.sweep();
    }

    /// Who a token is for, if it is good now.
    ///
    /// # Errors
    /// Why it is not; nothing of the token is in the error.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.verify_at(token, SystemTime::now())
    }

    /// The same of one that may be the token `known`, which it becomes if it is good: while that lasts, and the keys stay
    /// the same, its signature is not computed again. Revocations are the caller's to ask for, each time.
    ///
    /// # Errors
    /// As [`Authenticator::verify`].
    pub fn verify_again(&self, token: &str, known: &mut Option<Known>) -> Result<Arc<Identity>, AuthError> {
        self.verify_again_at(token, known, SystemTime::now())
    }

    /// Whether the token of that proof would be found good, were it shown again `now`. Revocations are the caller's to ask for.
    pub fn still_good(&self, who: &Identity, proof: &Proof, now: SystemTime) -> bool {
        proof.stands(who, self.generation(), now)
    }

    /// By which keys tokens are verified now. To be asked before the keys are taken: were they replaced in between, they
    /// count as the old ones.
    fn generation(&self) -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(self.reloads.load(Ordering::Acquire))
    }

    pub(super) fn verify_again_at(
        &self,
        token: &str,
        known: &mut Option<Known>,
        now: SystemTime,
    ) -> Result<Arc<Identity>, AuthError> {
        let keys = self.generation();
        let digest = self.digests.of(token);
        if let Some(known) = known.as_ref().filter(|known| known.holds(digest, keys, now)) {
            return Ok(Arc::clone(&known.who));
        }
        let who = Arc::new(self.verify_at(token, now)?);
        *known = Some(Known::new(Arc::clone(&who), digest, keys, now));
        Ok(who)
    }

    pub(super) fn verify_at(&self, token: &str, now: SystemTime) -> Result<Identity, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(NOT_THREE)?;
        let (header, payload) = message.split_once('.').ok_or(NOT_THREE)?;
        if payload.contains('.') {
            return Err(NOT_THREE);
        }
        let header = Header::decode(header)?;
        let algorithm = header.algorithm()?;
        let keys = Arc::clone(&self.keys.read());
        keys.verify(algorithm, header.kid.as_deref(), message, signature)?;
        // Only now is it worth reading: whoever signed this is trusted to name subjects.
        let mut identity = self.expected.identity(&decode(payload)?, now)?;
        identity.grants = identity.grants.map(|grants| self.grants.share(grants));
        Ok(identity)
    }
}

const NOT_THREE: AuthError = AuthError::Malformed("it is not three parts with dots between");

/// What of the JOSE header matters (RFC 7515 §4.1). Keys that a token brings along or points to (`jwk`, `jku`, `x5c`,
/// `x5u`) are not even read.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

/// `null` is there, too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IgnoredAny>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(Some)
}

impl Header {
    fn decode(header: &str) -> Result<Self, AuthError> {
        serde_json::from_slice(&decode(header)?)
            .map_err(|_| AuthError::Malformed("its header is no JSON object with an alg"))
    }

    /// RFC 8725 §3.1: an allow-list, by exact name; `none` in any spelling is not on it.
    fn algorithm(&self) -> Result<Algorithm, AuthError> {
        // RFC 7515 §4.1.11: who does not understand what is critical must refuse. This edge knows no extension.
        if self.crit.is_some() {
            return Err(AuthError::Malformed("its header has crit"));
        }
        match self.alg.as_str() {
            "HS256" => Ok(Algorithm::HS256),
            "RS256" => Ok(Algorithm::RS256),
            "ES256" => Ok(Algorithm::ES256),
            "EdDSA" => Ok(Algorithm::EdDSA),
            _ => Err(AuthError::AlgorithmNotAllowed),
        }
    }
}

fn decode(part: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| AuthError::Malformed("a part of it is not base64url without padding"))
}
