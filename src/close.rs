//! The one catalogue of how things end: every refusal, error and close a client can see, with its close code, its
//! HTTP status, the words for it, and whether coming back makes sense.
//!
//! Every layer that says no returns a [`Fault`]; only transports turn it into bytes.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// What went wrong, as a client may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Not an envelope, or a field that is missing or wrong.
    Malformed,
    /// An envelope whose `type` this version does not know.
    UnknownType,
    /// The edge failed; the client did nothing wrong.
    Internal,
    /// The token does not grant this on that channel.
    Forbidden,
    /// The channel's namespace keeps no presence.
    PresenceDisabled,
    /// A connection holds as many channels as it may.
    TooManyChannels,
    /// No such resource (HTTP only).
    NotFound,
    /// The resource exists, the method does not (HTTP only).
    MethodNotAllowed,
    /// The resource speaks WebSocket only (HTTP only, RFC 9110 §15.5.22).
    UpgradeRequired,
    /// Something of HTTP that the edge has no use for (HTTP only, RFC 9110 §15.6.2).
    NotImplemented,
    /// No token came, or none in time.
    AuthenticationRequired,
    /// A token or ticket came and is not good.
    AuthenticationFailed,
    /// The token was good and has been taken back.
    Revoked,
    /// A page of an Origin that is not allowed.
    OriginNotAllowed,
    /// A quota is used up.
    RateLimited,
    /// A message or body beyond `limits.message_bytes`.
    MessageTooLarge,
    /// This node is being restarted.
    Restart,
    /// This node cannot take more now.
    Overloaded,
    /// The client reads more slowly than its channel allows.
    SlowConsumer,
}

impl Kind {
    /// The WebSocket close code, which is also the envelope's `code` (RFC 6455 §7.4.2 leaves 4000–4999 to us).
    pub const fn code(self) -> u16 {
        match self {
            Self::AuthenticationRequired => 4001,
            Self::AuthenticationFailed | Self::Revoked => 4002,
            Self::OriginNotAllowed => 4003,
            Self::RateLimited => 4004,
            Self::MessageTooLarge => 4005,
            Self::Restart => 1012,
            Self::Overloaded | Self::SlowConsumer => 1013,
            _ => 4000,
        }
    }

    /// The word a program may match on; also the metrics' `reason` label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Internal => "internal",
            Self::Forbidden => "forbidden",
            Self::PresenceDisabled => "presence_disabled",
            Self::TooManyChannels => "too_many_channels",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UpgradeRequired => "upgrade_required",
            Self::NotImplemented => "not_implemented",
            Self::AuthenticationRequired => "authentication_required",
            Self::AuthenticationFailed => "authentication_failed",
            Self::Revoked => "revoked",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::RateLimited => "rate_limited",
            Self::MessageTooLarge => "message_too_large",
            Self::Restart => "restart",
            Self::Overloaded => "overloaded",
            Self::SlowConsumer => "slow_consumer",
        }
    }

    /// The same refusal as an HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::UnknownType | Self::PresenceDisabled | Self::TooManyChannels => 400,
            Self::AuthenticationRequired | Self::AuthenticationFailed | Self::Revoked => 401,
            Self::Forbidden | Self::OriginNotAllowed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::MessageTooLarge => 413,
            Self::UpgradeRequired => 426,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Restart | Self::Overloaded | Self::SlowConsumer => 503,
        }
    }

    /// A short human title (RFC 9457 `title`).
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed request",
            Self::UnknownType => "Unknown envelope type",
            Self::Internal => "Internal error",
            Self::Forbidden => "Forbidden",
            Self::PresenceDisabled => "Presence is disabled",
            Self::TooManyChannels => "Too many channels",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::UpgradeRequired => "Upgrade required",
            Self::NotImplemented => "Not implemented",
            Self::AuthenticationRequired => "Authentication required",
            Self::AuthenticationFailed => "Authentication failed",
            Self::Revoked => "Token revoked",
            Self::OriginNotAllowed => "Origin not allowed",
            Self::RateLimited => "Rate limit exceeded",
            Self::MessageTooLarge => "Message too large",
            Self::Restart => "Restarting",
            Self::Overloaded => "Try again later",
            Self::SlowConsumer => "Slow consumer",
        }
    }

    /// Whether the same request can succeed later without any change to it.
    pub const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::RateLimited | Self::Restart | Self::Overloaded | Self::SlowConsumer | Self::Internal
        )
    }

    /// Whether a WebSocket outlives it; the others close the connection at once.
    pub const fn is_survivable(self) -> bool {
        self.code() == 4000
            || matches!(self, Self::RateLimited | Self::AuthenticationRequired | Self::Overloaded)
    }

    /// Every kind, for tables in documents, metrics and tests.
    pub const ALL: [Self; 19] = [
        Self::Malformed,
        Self::UnknownType,
        Self::Internal,
        Self::Forbidden,
        Self::PresenceDisabled,
        Self::TooManyChannels,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::UpgradeRequired,
        Self::NotImplemented,
        Self::AuthenticationRequired,
        Self::AuthenticationFailed,
        Self::Revoked,
        Self::OriginNotAllowed,
        Self::RateLimited,
        Self::MessageTooLarge,
        Self::Restart,
        Self::Overloaded,
        Self::SlowConsumer,
    ];
}

/// One refusal or ending, with what the client is told about it. Serializes as the `error` envelope's payload.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What went wrong.
    pub kind: Kind,
    /// One sentence for a person; never holds a secret.
    pub detail: Cow<'static, str>,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// The configuration key of the limit that was hit.
    pub limit: Option<&'static str>,
    /// The channel it is about.
    pub channel: Option<String>,
}

impl Fault {
    /// A fault of that kind with a sentence for a person.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, limit: None, channel: None }
    }

    /// The envelope or a field in it is wrong.
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Malformed, detail)
    }

    /// A quota, named by its configuration key, is used up for `retry_after`.
    pub fn rate_limited(limit: &'static str, retry_after: Duration) -> Self {
        let detail = format!("the quota {limit} is used up");
        Self { retry_after: Some(retry_after), limit: Some(limit), ..Self::new(Kind::RateLimited, detail) }
    }

    /// Says which channel it is about.
    #[must_use]
    pub fn in_channel(self, channel: impl Into<String>) -> Self {
        Self { channel: Some(channel.into()), ..self }
    }

    /// Says which limit was hit, by its configuration key.
    #[must_use]
    pub fn with_limit(self, limit: &'static str) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Says when to come again.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// `retry_after` in milliseconds, at least 1.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1))
    }

    /// The reason of a WebSocket close frame: `restart;retry=MS` or the plain word (RFC 6455 §5.5: at most 123 bytes).
    pub fn close_reason(&self) -> String {
        match (self.kind, self.retry_after_ms()) {
            (Kind::Restart, Some(ms)) => format!("restart;retry={ms}"),
            _ => self.kind.reason().to_owned(),
        }
    }

    /// Writes the payload's members into a JSON map that may have more of them.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize_members<M: serde::ser::SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("code", &self.kind.code())?;
        map.serialize_entry("reason", self.kind.reason())?;
        map.serialize_entry("detail", &self.detail)?;
        if let Some(ms) = self.retry_after_ms() {
            map.serialize_entry("retry_after_ms", &ms)?;
        }
        if let Some(limit) = self.limit {
            map.serialize_entry("limit", limit)?;
        }
        if let Some(channel) = &self.channel {
            map.serialize_entry("channel", channel)?;
        }
        Ok(())
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_members(&mut map)?;
        map.end()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.reason(), self.detail)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_has_only_what_is_known() {
        let fault =
            Fault::rate_limited("quota.messages_per_connection_per_minute", Duration::from_millis(600))
                .in_channel("chat:lobby");
        assert_eq!(
            serde_json::to_string(&fault).unwrap(),
            r#"{"code":4004,"reason":"rate_limited","detail":"the quota quota.messages_per_connection_per_minute is used up","retry_after_ms":600,"limit":"quota.messages_per_connection_per_minute","channel":"chat:lobby"}"#
        );
        assert_eq!(
            serde_json::to_string(&Fault::malformed("no type")).unwrap(),
            r#"{"code":4000,"reason":"malformed","detail":"no type"}"#
        );
    }

    #[test]
    fn close_reasons_fit_a_control_frame() {
        for kind in Kind::ALL {
            assert!(Fault::new(kind, "").with_retry_after(Duration::MAX).close_reason().len() <= 123);
        }
    }
}
