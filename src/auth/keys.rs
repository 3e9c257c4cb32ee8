//! The keys that tokens are verified with, read from the configuration and its files. Every key is bound to one
//! algorithm when it is read, so that no token can choose how a key is used (RFC 8725 §3.1). Never verifies anything
//! but signatures, never fetches anything.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, crypto};
use serde::Deserialize;

use super::AuthError;
use crate::config;

/// Keys of one algorithm. A token without a `kid` costs a try of each, so this bounds the work of a bad token.
const MAX_KEYS_PER_ALGORITHM: usize = 16;

/// Largest key file, in bytes; a set of 48 keys with certificate chains is some 300 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// RFC 7518 §3.2: an HS256 key is no shorter than its hash.
const MIN_SECRET_BYTES: usize = 32;

/// RFC 7518 §3.3: at least 2048 bits; beyond 8192 the verifier refuses.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why there are no keys to verify tokens with. Says which setting to change; holds no key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Tokens are required and none could ever be verified.
    #[error(
        "auth.mode = \"required\" needs a key: set auth.hs256_secret, auth.jwks_file or auth.public_key_file, \
         or auth.mode = \"optional\""
    )]
    NoKeys,
    /// A guessable secret.
    #[error(
        "auth.hs256_secret has {0} bytes; HS256 needs at least {MIN_SECRET_BYTES} (RFC 7518 section 3.2)"
    )]
    ShortSecret(usize),
    /// The file is not there, or not ours to read.
    #[error("{setting}: {}: {source}", path.display())]
    Read {
        /// The configuration key that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there, but is not what the setting needs.
    #[error("{setting}: {}: {reason}", path.display())]
    Content {
        /// The configuration key that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// A set of keys, replaced as a whole.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// `None`: may be the key of any token of its algorithm.
    id: Option<String>,
    algorithm: Algorithm,
    verifier: DecodingKey,
}

impl Keys {
    /// Reads every configured source. Blocks on the file system.
    ///
    /// # Errors
    /// No source where one is needed, or one that is not good; then nothing of it is used.
    pub(super) fn load(settings: &config::Auth) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        if let Some(secret) = &settings.hs256_secret {
            if secret.len() < MIN_SECRET_BYTES {
                return Err(KeyError::ShortSecret(secret.len()));
            }
            let key = DecodingKey::from_secret(secret.as_bytes());
            keys.push(Key { id: None, algorithm: Algorithm::HS256, verifier: key });
        }
        if let Some(path) = &settings.jwks_file {
            let of_file = read("auth.jwks_file", path).and_then(|text| {
                parse_jwks(&text).map_err(|reason| content("auth.jwks_file", path, reason))
            })?;
            keys.extend(of_file);
        }
        if let Some(path) = &settings.public_key_file {
            let of_file = read("auth.public_key_file", path).and_then(|text| {
                parse_pem(&text).map_err(|reason| content("auth.public_key_file", path, reason))
            })?;
            keys.push(of_file);
        }
        if keys.is_empty() && settings.mode == config::AuthMode::Required {
            return Err(KeyError::NoKeys);
        }
        Ok(Self(keys))
    }

    /// Whether one of the keys that the header allows made this signature of `header.payload`.
    ///
    /// # Errors
    /// No key of the algorithm, none of that `kid`, or none that fits.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), AuthError> {
        let mut of_algorithm = self.0.iter().filter(|key| key.algorithm == algorithm).peekable();
        if of_algorithm.peek().is_none() {
            return Err(AuthError::AlgorithmNotAllowed);
        }
        let mut candidates =
            of_algorithm.filter(|key| id.is_none() || key.id.is_none() || key.id.as_deref() == id).peekable();
        if candidates.peek().is_none() {
            return Err(AuthError::UnknownKey);
        }
        let fits = |key: &Key| crypto::verify(signature, message.as_bytes(), &key.verifier, algorithm);
        if candidates.any(|key| matches!(fits(key), Ok(true))) {
            Ok(())
        } else {
            Err(AuthError::BadSignature)
        }
    }
}

fn content(setting: &'static str, path: &Path, reason: String) -> KeyError {
    KeyError::Content { setting, path: path.to_owned(), reason }
}

fn read(setting: &'static str, path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::Read { setting, path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(content(setting, path, format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// The keys of a JWK set that can verify tokens. Others are passed over, as RFC 7517 §5 asks for: a set is shared
/// with applications that encrypt, or sign by other algorithms.
fn parse_jwks(text: &str) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    // Position only: the parser's own words quote the file.
    let set: Set = serde_json::from_str(text).map_err(|error| {
        format!("no JWK set ({{\"keys\": [...]}}) at line {}, column {}", error.line(), error.column())
    })?;
    let total = set.keys.len();
    let mut keys = Vec::new();
    for jwk in set.keys {
        // RFC 7518 §6.2.2.1, §6.3.2.1; RFC 8037 §2: the private part of every asymmetric type.
        if jwk.get("d").is_some() {
            return Err("holds a private key; put only public keys here".to_owned());
        }
        // A key with members that make no sense is passed over as well.
        if let Ok(jwk) = serde_json::from_value(jwk)
            && let Some(key) = from_jwk(&jwk)?
        {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(format!(
            "none of its {total} keys can verify tokens: it needs RSA (RS256), EC on P-256 (ES256) or OKP with Ed25519 \
             (EdDSA), not marked for encryption or for other algorithms"
        ));
    }
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        if keys.iter().filter(|key| key.algorithm == algorithm).count() > MAX_KEYS_PER_ALGORITHM {
            return Err(format!(
                "more than {MAX_KEYS_PER_ALGORITHM} keys of {algorithm:?}; take old ones out"
            ));
        }
    }
    Ok(keys)
}

/// `None` for a key that is good for something else.
fn from_jwk(jwk: &Jwk) -> Result<Option<Key>, String> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        // A shared secret in a set of public keys is public too: `oct` is never used, whatever its `alg`.
        _ => return Ok(None),
    };
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|it| it.contains(&KeyOperations::Verify))
        && common.key_algorithm.is_none_or(|it| it == KeyAlgorithm::from(algorithm));
    if !is_for_signatures {
        return Ok(None);
    }
    let id = common.key_id.clone();
    let named = |reason: &str| format!("the key {:?} {reason}", id.as_deref().unwrap_or("without kid"));
    let key = DecodingKey::from_jwk(jwk).map_err(|_| named("is not base64url"))?;
    check(&key, algorithm).map_err(|reason| named(&reason))?;
    Ok(Some(Key { id, algorithm, verifier: key }))
}

/// A public key as `openssl pkey -pubout` writes it.
fn parse_pem(text: &str) -> Result<Key, String> {
    const WANTED: &str = "a PEM public key (-----BEGIN PUBLIC KEY-----, RSA, EC on P-256 or Ed25519)";
    if text.contains("PRIVATE KEY-----") {
        return Err(format!("holds a private key; it needs {WANTED}"));
    }
    if text.matches("-----BEGIN ").count() != 1 || !text.contains("PUBLIC KEY-----") {
        return Err(format!("is not {WANTED}"));
    }
    let pem = text.as_bytes();
    let (algorithm, key) = DecodingKey::from_rsa_pem(pem)
        .map(|key| (Algorithm::RS256, key))
        .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)))
        .map_err(|_| format!("is not {WANTED}"))?;
    // Through a JWK, so that an RSA key is parsed once now and not only when the first token comes.
    let jwk = Jwk::from_decoding_key(&key, Some(algorithm)).map_err(|_| format!("is not {WANTED}"))?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| format!("is not {WANTED}"))?;
    check(&key, algorithm).map_err(|reason| format!("the key {reason}"))?;
    Ok(Key { id: None, algorithm, verifier: key })
}

/// What the cryptography underneath would find out only with the first token, or not at all.
fn check(key: &DecodingKey, algorithm: Algorithm) -> Result<(), String> {
    match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
            let bits = n
                .iter()
                .position(|&byte| byte != 0)
                .map_or(0, |zeros| (n.len() - zeros) * 8 - n[zeros].leading_zeros() as usize);
            if RSA_BITS.contains(&bits) {
                Ok(())
            } else {
                Err(format!("has {bits} bits; RS256 takes 2048 to 8192"))
            }
        }
        // RFC 5480 §2.2: uncompressed, two coordinates of 32 bytes.
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) if point.len() == 65 && point[0] == 4 => {
            Ok(())
        }
        (Algorithm::ES256, _) => Err("is not on P-256, which is what ES256 takes".to_owned()),
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) if point.len() == 32 => Ok(()),
        _ => Err("is not of its algorithm".to_owned()),
    }
}
