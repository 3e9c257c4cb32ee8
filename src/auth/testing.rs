//! Real keys and tokens for tests: made at test time, signed by the same library that a backend would use, and forged
//! where a test needs a forgery.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use crate::config;

/// 32 bytes.
pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A key pair and the algorithm it signs with.
pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    pair: KeyPair,
    key: EncodingKey,
}

impl Signer {
    /// RSA keys take long to make, so there is one for all tests.
    pub(super) fn rsa() -> &'static Self {
        static KEY: OnceLock<Signer> = OnceLock::new();
        KEY.get_or_init(|| Self::new(Algorithm::RS256, KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()))
    }

    pub(super) fn ec() -> Self {
        Self::new(Algorithm::ES256, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    pub(super) fn ec_p384() -> Self {
        Self::new(Algorithm::ES384, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap())
    }

    pub(super) fn ed() -> Self {
        Self::new(Algorithm::EdDSA, KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    fn new(algorithm: Algorithm, pair: KeyPair) -> Self {
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            Algorithm::EdDSA => EncodingKey::from_ed_der(&pair.serialize_der()),
            _ => EncodingKey::from_ec_der(&pair.serialize_der()),
        };
        Self { algorithm, pair, key }
    }

    pub(super) fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    pub(super) fn public_raw(&self) -> &[u8] {
        self.pair.public_key_raw()
    }

    pub(super) fn private_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The public key as a member of a JWK set.
    pub(super) fn jwk(&self, id: Option<&str>) -> Value {
        let raw = self.public_raw();
        let mut jwk = match self.algorithm {
            Algorithm::RS256 => {
                let key = DecodingKey::from_rsa_pem(self.public_pem().as_bytes()).unwrap();
                let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap();
                jwk["use"] = json!("sig");
                jwk
            }
            Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}),
            _ => {
                let (x, y) = raw[1..].split_at(raw.len() / 2);
                let curve = if raw.len() == 65 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
        };
        if let Some(id) = id {
            jwk["kid"] = json!(id);
        }
        jwk
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(claims, |_| {})
    }

    pub(super) fn token_with(&self, claims: &Value, change: impl FnOnce(&mut Header)) -> String {
        let mut header = Header::new(self.algorithm);
        change(&mut header);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// A token signed with the shared [`SECRET`].
pub(super) fn hs256(claims: &Value) -> String {
    hs256_by(SECRET.as_bytes(), claims)
}

/// A token signed with any bytes as the secret.
pub(super) fn hs256_by(secret: &[u8], claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// A token whose parts are what they are given as, signed by nobody.
pub(super) fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}.", base64url(header.to_string()), base64url(claims.to_string()))
}

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bob, for a minute.
pub(super) fn bob() -> Value {
    json!({"sub": "bob", "exp": seconds_from_now(60)})
}

pub(super) fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_secs()).unwrap() + seconds
}

/// Files that are deleted with it.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(content.as_ref()).unwrap();
        path
    }

    pub(super) fn jwks(&self, keys: &[Value]) -> PathBuf {
        self.write("jwks.json", json!({"keys": keys}).to_string())
    }
}

pub(super) fn with_secret() -> config::Auth {
    config::Auth { hs256_secret: Some(SECRET.to_owned()), ..config::Auth::default() }
}

pub(super) fn with_jwks(file: PathBuf) -> config::Auth {
    config::Auth { jwks_file: Some(file), ..config::Auth::default() }
}

pub(super) fn with_pem(file: PathBuf) -> config::Auth {
    config::Auth { public_key_file: Some(file), ..config::Auth::default() }
}
