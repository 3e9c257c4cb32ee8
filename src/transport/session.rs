//! What a client may do and what it is answered, the same on every transport: the rules of [`Request`]s, once the
//! caller is known. Transports add only what is theirs: frames, headers, where the answer goes.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::cursor_string::CursorString;
use super::edge::Edge;
use super::http::Opening;
use super::subscriptions::{Joined, Subscriptions};
use crate::auth::Identity;
use crate::bus::Accepted;
use crate::channel::{ChannelName, MessageId, Page, Position, Publication, Resume};
use crate::close::{Fault, Kind};
use crate::envelope::{
    self, ConnectionEstablished, HistoryPage, Incoming, Join, LimitsNotice, MessageAck, PresenceState,
    Request, RoomJoined, Start,
};
use crate::metrics::Transport;
use crate::presence::Lease;

/// Bytes of messages in one page of history; `more` says that there are others.
const HISTORY_BYTES: usize = 256 * 1024;

/// Who asks, through what.
#[derive(Clone)]
pub struct Caller {
    /// The node.
    pub edge: Arc<Edge>,
    /// Who.
    pub who: Arc<Identity>,
    /// Its connection, or the request if it has none.
    pub client_id: Uuid,
    /// Through what.
    pub transport: Transport,
}

impl Caller {
    /// Serves one request that needs no transport of its own; `subscriptions` are the connection's, where there is
    /// one. `None` where the protocol has no answer. Without `correlation_id` a publish is answered only if
    /// `always`.
    ///
    /// # Errors
    /// The [`Fault`] to answer with.
    pub async fn serve(
        &self,
        incoming: Incoming,
        subscriptions: Option<&mut Subscriptions>,
        always: bool,
    ) -> Result<Option<Bytes>, Fault> {
        let id = incoming.correlation_id.as_deref();
        match incoming.request {
            Request::Auth { .. } => {
                Err(Fault::malformed("auth is for a WebSocket; here the token is a header"))
            }
            Request::Join(join) => {
                let subscriptions = subscriptions.ok_or_else(not_here)?;
                self.join(subscriptions, &join, id).await.map(Some)
            }
            Request::Leave(channel) => {
                let subscriptions = subscriptions.ok_or_else(not_here)?;
                self.edge.typing.gone(&channel, &self.who.user_id, self.client_id);
                subscriptions.leave(&channel);
                let payload = serde_json::json!({ "channel": channel.as_str() });
                Ok(Some(envelope::encode("room_left", &payload, id)))
            }
            Request::Message { channel, data } => {
                let accepted = self.publish(&channel, data, incoming.message_id).await?;
                let answered = always || id.is_some();
                Ok(answered.then(|| envelope::encode("message_ack", &ack(&channel, accepted), id)))
            }
            Request::TypingStart(channel) => {
                self.may_speak(&channel)?;
                self.edge.typing.start(&channel, &self.who.user_id, self.client_id);
                Ok(None)
            }
            Request::TypingStop(channel) => {
                self.may_speak(&channel)?;
                self.edge.typing.stop(&channel, &self.who.user_id);
                Ok(None)
            }
            Request::Presence(channel) => {
                Ok(Some(envelope::encode("presence_state", &self.presence(&channel)?, id)))
            }
            Request::History { channel, after, limit } => {
                let page = self.history(&channel, after, limit).await?;
                Ok(Some(envelope::encode("history_page", &history_page(&channel, &page), id)))
            }
            Request::Ping => Ok(Some(envelope::encode("pong", &serde_json::json!({}), id))),
        }
    }

    /// The first envelope of every connection.
    pub fn established(edge: &Edge, client_id: Uuid, who: Option<&Identity>) -> Bytes {
        let config = &edge.config;
        let payload = ConnectionEstablished {
            client_id,
            user_id: who.map(|who| &*who.user_id),
            protocol: "tidegate.v1",
            heartbeat_ms: u64::try_from(config.heartbeat.interval.as_millis()).unwrap_or(u64::MAX),
            limits: LimitsNotice {
                message_bytes: config.limits.message_bytes,
                channels_per_connection: config.limits.channels_per_connection,
                messages_per_connection_per_minute: config.quota.messages_per_connection_per_minute,
            },
        };
        envelope::encode("connection_established", &payload, None)
    }

    /// Joins, and answers with `room_joined`. What was missed is read from the subscriptions afterwards.
    ///
    /// # Errors
    /// The [`Fault`] to answer with.
    pub async fn join(
        &self,
        subscriptions: &mut Subscriptions,
        join: &Join,
        correlation_id: Option<&str>,
    ) -> Result<Bytes, Fault> {
        let joined = self.enter(subscriptions, join, None, Lease::Stream).await?;
        Ok(self.room_joined(join, &joined, &subscriptions.cursor_string(None), correlation_id))
    }

    /// Makes all joins of an opening; their `room_joined`s share one cursor, which names every channel: a client that
    /// is cut off between two of them loses nothing. In the order of the joins.
    pub async fn join_all(
        &self,
        subscriptions: &mut Subscriptions,
        opening: &Opening,
        lease: Lease,
    ) -> Vec<Result<Bytes, Fault>> {
        let mut entered = Vec::with_capacity(opening.joins.len());
        for join in &opening.joins {
            entered.push(self.enter(subscriptions, join, opening.cursor.as_ref(), lease).await);
        }
        let cursor = subscriptions.cursor_string(None);
        let answer = |(join, joined): (&Join, Result<Joined, Fault>)| {
            joined.map(|joined| self.room_joined(join, &joined, &cursor, None))
        };
        opening.joins.iter().zip(entered).map(answer).collect()
    }

    /// [`Caller::join_all`] for who knows where it stands: told of are those channels alone that its cursor does not name.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub async fn join_again(
        &self,
        subscriptions: &mut Subscriptions,
        opening: &Opening,
        lease: Lease,
    ) -> Result<Vec<Bytes>, Fault> {
        let cursor = opening.cursor.as_ref();
        let mut news = Vec::new();
        for join in &opening.joins {
            let joined = self.enter(subscriptions, join, cursor, lease).await?;
            if cursor.is_none_or(|cursor| cursor.place(&join.channel).is_none()) {
                news.push((join, joined));
            }
        }
        if news.is_empty() {
            return Ok(Vec::new());
        }
        let cursor = subscriptions.cursor_string(None);
        Ok(news.iter().map(|(join, joined)| self.room_joined(join, joined, &cursor, None)).collect())
    }

    async fn enter(
        &self,
        subscriptions: &mut Subscriptions,
        join: &Join,
        cursor: Option<&CursorString>,
        lease: Lease,
    ) -> Result<Joined, Fault> {
        let begin = self.begin(join, cursor)?;
        subscriptions.join(&self.edge, &self.who, &join.channel, begin, join.presence, lease).await
    }

    fn room_joined(&self, join: &Join, joined: &Joined, cursor: &str, correlation_id: Option<&str>) -> Bytes {
        let settings = self.edge.hub.settings(&join.channel);
        let presence = (join.presence && settings.presence).then(|| self.edge.roster.list(&join.channel).0);
        let Position { epoch, seq } = joined.position;
        let channel = join.channel.as_str();
        let payload = RoomJoined { channel, epoch, seq, cursor, recovered: joined.recovered, presence };
        envelope::encode("room_joined", &payload, correlation_id)
    }

    /// Publishes.
    ///
    /// # Errors
    /// [`Kind::Forbidden`], or what the bus says.
    pub async fn publish(
        &self,
        channel: &ChannelName,
        data: Box<RawValue>,
        message_id: Option<MessageId>,
    ) -> Result<Accepted, Fault> {
        self.may_send(channel)?;
        let publication = Publication {
            channel: channel.clone(),
            sender_id: Arc::clone(&self.who.user_id),
            client_id: self.client_id,
            idempotent: message_id.is_some(),
            message_id: message_id.unwrap_or_else(MessageId::random),
            timestamp: SystemTime::now(),
            data,
        };
        let accepted = self.edge.hub.publish(publication).await?;
        self.edge.metrics.published(accepted.duplicate);
        Ok(accepted)
    }

    /// A page of history, for those who may join the channel.
    ///
    /// # Errors
    /// [`Kind::Forbidden`], or what the bus says.
    pub async fn history(&self, channel: &ChannelName, after: u64, limit: usize) -> Result<Page, Fault> {
        self.may_join(channel)?;
        self.edge.hub.history(channel, (after, limit), HISTORY_BYTES, self.edge.now()).await
    }

    /// Who is in the channel, for those who may join it.
    ///
    /// # Errors
    /// [`Kind::Forbidden`], [`Kind::PresenceDisabled`].
    pub fn presence<'a>(&self, channel: &'a ChannelName) -> Result<PresenceState<'a>, Fault> {
        self.may_join(channel)?;
        if !self.edge.hub.settings(channel).presence {
            return Err(Fault::new(Kind::PresenceDisabled, "this namespace keeps no presence")
                .in_channel(channel.as_str()));
        }
        let (users, total) = self.edge.roster.list(channel);
        Ok(PresenceState { channel: channel.as_str(), users, total })
    }

    fn begin(&self, join: &Join, cursor: Option<&CursorString>) -> Result<(Resume, Option<u64>), Fault> {
        let parsed;
        let cursor = match (&join.start, cursor) {
            (_, Some(cursor)) => Some(cursor),
            (Start::Cursor(text), None) => {
                let refuse = |error: super::CursorError| {
                    Fault::malformed(error.to_string()).in_channel(join.channel.as_str())
                };
                parsed = CursorString::parse(text).map_err(refuse)?;
                Some(&parsed)
            }
            _ => None,
        };
        Ok(match (cursor, &join.start) {
            (Some(cursor), _) => match cursor.place(&join.channel) {
                Some(place) => {
                    let passing = (cursor.node == Some(self.edge.node)).then_some(place.passing);
                    (Resume::After(Some(place.position)), passing)
                }
                // The cursor was made without this channel: it begins now.
                None => (Resume::Live, None),
            },
            (None, Start::Recover(position)) => (Resume::After(*position), None),
            (None, Start::History(newest)) => (Resume::History(*newest), None),
            (None, Start::Live | Start::Cursor(_)) => (Resume::Live, None),
        })
    }

    /// Whether the caller may join the channel; asked by what does not join.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may_join(&self, channel: &ChannelName) -> Result<(), Fault> {
        if self.who.may_join(channel, self.edge.hub.settings(channel)) {
            return Ok(());
        }
        Err(Fault::new(Kind::Forbidden, "no grant to join this channel").in_channel(channel.as_str()))
    }

    fn may_send(&self, channel: &ChannelName) -> Result<(), Fault> {
        if self.who.may_send(channel, self.edge.hub.settings(channel)) {
            return Ok(());
        }
        Err(Fault::new(Kind::Forbidden, "no grant to send to this channel").in_channel(channel.as_str()))
    }

    /// Typing is for those who could send what they type.
    fn may_speak(&self, channel: &ChannelName) -> Result<(), Fault> {
        self.may_send(channel)
    }
}

/// Checks a request against the caller's quota, which depends on what it is.
///
/// # Errors
/// [`Kind::RateLimited`].
pub fn meter(edge: &Edge, who: &Identity, request: &Request) -> Result<(), Fault> {
    let rates = edge.quotas.of(who);
    match request {
        Request::Message { .. } | Request::TypingStart(_) | Request::TypingStop(_) => rates.message(),
        _ => rates.request(),
    }
}

/// `message_ack`'s payload.
pub fn ack(channel: &ChannelName, accepted: Accepted) -> MessageAck<'_> {
    let Position { epoch, seq } = accepted.position;
    MessageAck { channel: channel.as_str(), epoch, seq, duplicate: accepted.duplicate }
}

/// `history_page`'s payload.
pub fn history_page<'a>(channel: &'a ChannelName, page: &'a Page) -> HistoryPage<'a> {
    HistoryPage {
        channel: channel.as_str(),
        epoch: page.head.epoch,
        messages: &page.messages,
        more: page.more,
    }
}

fn not_here() -> Fault {
    Fault::malformed("joining and leaving is for a WebSocket; SSE and polls name their channels in the query")
}
