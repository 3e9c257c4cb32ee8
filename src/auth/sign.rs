//! Making tokens: for the command `token`, the demo and tests. A backend makes its own.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// The claims can't be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign the token: {0}")]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

/// An HS256 token (RFC 7515) with these claims.
///
/// # Errors
/// [`SignError`] for claims that are no JSON.
pub fn sign(secret: &str, claims: &impl Serialize) -> Result<String, SignError> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)?)
}
