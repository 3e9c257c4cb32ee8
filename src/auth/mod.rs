//! Who may come in, and who they then are: credentials found in a request, tokens verified and taken back, tickets, the
//! Origins of pages. Called by the server before a transport begins and by transports for joins and sends. Nothing here logs,
//! and no error holds any part of a credential.

mod authenticator;
mod carried;
mod claims;
mod credential;
mod grants;
mod identity;
mod keys;
mod known;
mod origin;
mod revocation;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod sign;
mod ticket;

pub use authenticator::{Authenticator, MAX_TOKEN_BYTES};
pub use claims::{MAX_INFO_BYTES, MAX_SUBJECT_BYTES};
pub use credential::{COOKIE, Credential, SUBPROTOCOL_PREFIX, Secret, Source, find};
pub use grants::MAX_PATTERNS;
pub use identity::{GUEST_PREFIX, GuestSalt, Identity, Role};
pub use keys::KeyError;
pub use known::{Known, Proof};
pub use origin::{Origin, OriginError, OriginPolicy};
pub use revocation::{
    MAX_REVOCATIONS, MAX_TOKEN_ID_BYTES, Marks, REVOCATION_DEFAULT, REVOCATION_MAX, Revocation,
    RevocationError, Revocations, Revoked, Whose,
};
pub use sign::{SignError, sign};
pub use ticket::{TICKET_LIFETIME, Tickets};

use crate::close::{Fault, Kind};

/// Why a token or ticket is not good. Every word in it is ours: nothing of the credential gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not three parts of base64url (RFC 7519 §7.2), or a header this edge does not understand.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// `none`, an algorithm outside HS256, RS256, ES256 and `EdDSA`, or one without a key here.
    #[error("the token's algorithm is not accepted here")]
    AlgorithmNotAllowed,
    /// The token's `kid` is none of ours.
    #[error("the token's key is not known here")]
    UnknownKey,
    /// No key of ours made this signature.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is not `auth.issuer`.
    #[error("the token is of another issuer")]
    WrongIssuer,
    /// `aud` does not name `auth.audience`.
    #[error("the token is for another audience")]
    WrongAudience,
    /// A claim that is required.
    #[error("the token has no {0}")]
    Missing(&'static str),
    /// A claim that makes no sense.
    #[error("a claim of the token is wrong: {0}")]
    Claim(&'static str),
    /// No such ticket, used before, or older than [`TICKET_LIFETIME`].
    #[error("the ticket is unknown, used or too old")]
    Ticket,
    /// Taken back before it ran out.
    #[error("the token has been revoked")]
    Revoked,
    /// The header `Authorization` is no single `Bearer` token (RFC 6750 §2.1), or a credential is empty or given twice.
    #[error("the credential is malformed: {0}")]
    Credential(&'static str),
}

impl AuthError {
    /// One word for a metric's label and an audit line.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_token",
            Self::TooLong => "token_too_long",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::Missing(_) => "missing_claim",
            Self::Claim(_) => "bad_claim",
            Self::Ticket => "bad_ticket",
            Self::Revoked => "revoked",
            Self::Credential(_) => "malformed_credential",
        }
    }
}

impl From<AuthError> for Fault {
    fn from(error: AuthError) -> Self {
        let kind = match error {
            AuthError::Revoked => Kind::Revoked,
            _ => Kind::AuthenticationFailed,
        };
        Self::new(kind, error.to_string())
    }
}
