//! One client on a WebSocket, from the first envelope to the close: requests in, answers and what its cursors read out.

use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use fastwebsockets::OpCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;
use uuid::Uuid;

use super::batch::Batch;
use super::clock::Clock;
use super::end::{End, Ends};
use super::frames::Inbound;
use super::handshake::Upgrade;
use super::wire::{Loss, Wire};
use crate::auth::Identity;
use crate::channel::{Channel, Life, Reader, Rung, metadata_timestamp};
use crate::close::{Fault, Kind};
use crate::envelope::{self, Incoming, Rejected, Request};
use crate::metrics::{ActiveGuard, Transport};
use crate::presence::Lease;
use crate::quota::ConnectionQuota;
use crate::transport::http::Opening;
use crate::transport::{Caller, Doorbell, Edge, Subscriptions};

/// Violations in a row after which a connection is closed.
const VIOLATIONS_MAX: u8 = 10;

/// One client. Kept in a box: while it is idle, it and a few pointers in the connection's task are all there is. It waits
/// with its bell, so that news can be given to it without its task.
pub struct Session<S> {
    client_id: Uuid,
    who: Option<Arc<Identity>>,
    wire: Wire<S>,
    subscriptions: Subscriptions,
    quota: ConnectionQuota,
    violations: u8,
    clock: Clock,
    /// Nothing, in between.
    ends: Option<Box<Ends>>,
    _active: ActiveGuard,
    /// The client has been told already why it is closed.
    told: bool,
    /// The channels may have something that the cursors have not seen.
    news: bool,
    /// The client has sent something since the last time that was looked at.
    heard: bool,
    /// The revocations that it has seen.
    seen: u32,
    door: Doorbell,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Session<S> {
    /// Takes over after the handshake, until the connection ends; `unread` are bytes that came with it.
    pub fn begin(edge: &Arc<Edge>, upgrade: Upgrade, stream: S, unread: &Bytes) -> Life {
        let (wire, fed) = Wire::new(stream, unread, &edge.config.limits, upgrade.deflate);
        let subscriptions = Subscriptions::new();
        let door = Doorbell::new(edge, subscriptions.wake());
        let mut session = Box::new(Self {
            client_id: upgrade.client_id,
            who: None,
            wire,
            subscriptions,
            quota: ConnectionQuota::default(),
            violations: 0,
            ends: None,
            _active: edge.metrics.connection(Transport::WebSocket),
            told: false,
            news: false,
            heard: false,
            seen: 0,
            clock: Clock::new(edge),
            door,
        });
        if let Err(loss) = fed {
            session.ends.get_or_insert_default().lost = Some(loss);
        }
        if let Err(fault) = session.open(upgrade.who, upgrade.opening) {
            session.refuses(fault);
        }
        session.go_on()
    }

    /// The first envelopes: who the client is, and what its query asked for.
    fn open(
        &mut self,
        who: Result<Option<Arc<Identity>>, Fault>,
        opening: Result<Opening, Fault>,
    ) -> Result<(), Fault> {
        let who = who?;
        self.say(&Caller::established(self.door.edge(), self.client_id, who.as_deref()));
        match opening {
            Ok(opening) if !opening.joins.is_empty() => {
                self.ends.get_or_insert_default().opening = Some(opening);
            }
            Ok(_) => {}
            Err(fault) => self.refuse(fault, None)?,
        }
        if let Some(who) = who {
            self.identify(&who);
        }
        Ok(())
    }

    /// Does what there is to do beside the news of channels, until it waits again or has ended.
    async fn act(mut self: Box<Self>) -> Option<Life> {
        match self.serve().await {
            Ok(()) => {
                let moment = self.clock.next(self.edge());
                self.door.ring_at(moment);
                Some(Life::Waits(self.subscriptions.wake().clone().leave(self)))
            }
            Err(end) => {
                Box::pin(self.close(end)).await;
                None
            }
        }
    }

    async fn serve(&mut self) -> Result<(), End> {
        if let Some(fault) = self.ends.as_mut().and_then(|ends| ends.refused.take()) {
            return Err(End::Fault(fault));
        }
        self.tick()?;
        // Boxed: what a join or a request may wait for is large, and a turn is mostly about a moment.
        if self.who.is_some() && self.ends.as_ref().is_some_and(|ends| ends.opening.is_some()) {
            Box::pin(self.join_opening()).await;
        }
        if self.wire.has_arrived() {
            Box::pin(self.hear_all()).await?;
        }
        match self.ends.as_mut().and_then(|ends| ends.lost.take_if(|_| !self.wire.has_arrived())) {
            Some(loss) => Err(End::of(&loss, &self.edge().config.limits)),
            None => Ok(()),
        }
    }

    /// The node that it is on.
    fn edge(&self) -> &Arc<Edge> {
        self.door.edge()
    }

    /// Serves what has arrived, as long as its answers fit the queue; the rest waits until they are written. Who is
    /// gone can't be answered, but what it sent before still counts.
    async fn hear_all(&mut self) -> Result<(), End> {
        let lost = self.ends.as_ref().and_then(|ends| ends.lost.as_ref());
        let gone = matches!(lost, Some(Loss::Eof | Loss::Io(_)));
        while gone || self.has_room() {
            let Some(inbound) = self.wire.next_arrived() else { break };
            self.hear(inbound, gone).await?;
            if gone {
                self.wire.outbox.clear();
            }
        }
        Ok(())
    }

    /// The client is to go with that.
    fn refuses(&mut self, fault: Fault) {
        self.ends.get_or_insert_default().refused = Some(Box::new(fault));
    }

    /// The connection is gone.
    fn is_lost(&mut self, loss: Loss) {
        self.ends.get_or_insert_default().lost = Some(loss);
    }

    /// Whether it is to end, and nothing is to be served before that.
    fn ends_now(&self) -> bool {
        let lost = |ends: &Ends| ends.lost.is_some() && !self.wire.has_arrived();
        self.ends.as_ref().is_some_and(|ends| ends.refused.is_some() || lost(ends))
    }

    /// Whether it may have been rung for a drain or a revocation.
    fn is_called(&self) -> bool {
        let drains = self.door.edge().drain.has_begun() && self.clock.leave.is_none();
        drains || (self.who.is_some() && self.seen != self.door.edge().revocations.generation())
    }

    /// Writes what the cursors have not seen, in one write. Whether the session goes on.
    fn deliver(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        self.news = false;
        let Some(who) = &self.who else { return true };
        let mut batch = Batch::take();
        let deflate = self.wire.outbox.deflate();
        match batch.read(self.door.edge(), &mut self.subscriptions, &who.user_id, deflate) {
            Ok(more) => self.news = more,
            Err(fault) => {
                self.refuses(fault);
                return false;
            }
        }
        let written = self.wire.write(context, batch.frames());
        batch.count(self.edge(), now);
        batch.give_back();
        written.map_err(|loss| self.is_lost(loss)).is_ok()
    }

    /// Whether another request may be answered.
    fn has_room(&self) -> bool {
        self.wire.outbox.len() < self.door.edge().config.limits.queue_bytes
    }

    async fn hear(&mut self, inbound: Inbound, gone: bool) -> Result<(), End> {
        let inbound = self
            .wire
            .inflated(inbound)
            .map_err(|fault| End::of(&Loss::Violation(fault), &self.door.edge().config.limits))?;
        match inbound {
            Inbound::Text(text) => self.request(&text, gone).await.map_err(End::from),
            Inbound::Binary(_) => {
                self.door.edge().metrics.received(Transport::WebSocket, 1);
                let fault = Fault::malformed("a binary frame; envelopes are text");
                self.refuse(fault, None).map_err(End::from)
            }
            Inbound::Ping(payload) => {
                if let Err(fault) = self.quota.request(&self.edge().quotas) {
                    return self.refuse(fault, None).map_err(End::from);
                }
                self.wire.outbox.control(OpCode::Pong, &payload);
                Ok(())
            }
            Inbound::Pong | Inbound::Deflated(_) => Ok(()),
            Inbound::Close(code) => Err(End::Closed(code)),
        }
    }

    /// One envelope, and its answer; of who is `gone` only what others will see.
    async fn request(&mut self, text: &[u8], gone: bool) -> Result<(), Fault> {
        self.door.edge().metrics.received(Transport::WebSocket, 1);
        let incoming = match envelope::parse(text) {
            Ok(incoming) => incoming,
            Err(Rejected { fault, correlation_id }) => return self.refuse(fault, correlation_id.as_deref()),
        };
        // A history that nobody will read costs as much as another.
        if gone && !matches!(incoming.request, Request::Auth { .. } | Request::Message { .. }) {
            return Ok(());
        }
        let id = incoming.correlation_id.clone();
        match self.answer(incoming).await {
            Ok(answer) => {
                self.violations = 0;
                if let Some(answer) = answer {
                    self.say(&answer);
                }
                Ok(())
            }
            Err(fault) => self.refuse(fault, id.as_deref()),
        }
    }

    async fn answer(&mut self, incoming: Incoming) -> Result<Option<Bytes>, Fault> {
        if let Request::Auth { token } = &incoming.request {
            self.quota.request(&self.edge().quotas)?;
            self.authenticate(token, incoming.correlation_id.as_deref())?;
            self.join_opening().await;
            return Ok(None);
        }
        let Some(who) = &self.who else {
            return Err(Fault::new(Kind::AuthenticationRequired, "send an auth envelope first"));
        };
        let caller = Caller {
            edge: Arc::clone(self.door.edge()),
            who: Arc::clone(who),
            client_id: self.client_id,
            transport: Transport::WebSocket,
        };
        match &incoming.request {
            Request::Message { .. } | Request::TypingStart(_) | Request::TypingStop(_) => {
                self.quota.message(&self.door.edge().quotas, who)?;
            }
            _ => self.quota.request(&self.edge().quotas)?,
        }
        // It may wait for the bus, and others for the buffer.
        self.wire.outbox.settle();
        caller.serve(incoming, Some(&mut self.subscriptions), false).await
    }

    fn authenticate(&mut self, token: &str, correlation_id: Option<&str>) -> Result<(), Fault> {
        let who = self.door.edge().verify(token).map_err(|error| {
            tracing::warn!(connection = %self.client_id, reason = error.reason(), "authentication failed: {error}");
            Fault::from(error)
        })?;
        if self.who.as_ref().is_some_and(|known| !known.is_guest() && known.user_id != who.user_id) {
            return Err(Fault::new(Kind::AuthenticationFailed, "the token is another user's"));
        }
        let expires_at = who.expires_at().map(|at| metadata_timestamp(at).to_string());
        let payload = serde_json::json!({ "ok": true, "user_id": &*who.user_id, "expires_at": expires_at });
        let answer = envelope::encode("auth_response", &payload, correlation_id);
        self.say(&answer);
        self.identify(&who);
        Ok(())
    }

    /// From now on the client is that one; joins that waited for it are made.
    fn identify(&mut self, who: &Arc<Identity>) {
        self.clock.token_due = who.expires_in().map(|left| self.door.edge().bells.now() + left);
        self.door.belongs_to(who);
        self.seen = 0;
        self.stop_typing();
        let left = self.subscriptions.renew(self.door.edge(), who, Lease::Stream);
        self.who = Some(Arc::clone(who));
        for channel in left {
            let fault = Fault::new(Kind::Forbidden, "the new token does not grant this channel");
            self.tell(&fault.in_channel(channel.as_str()), None);
            self.say(&envelope::encode(
                "room_left",
                &serde_json::json!({ "channel": channel.as_str() }),
                None,
            ));
        }
    }

    /// Makes the joins that waited for an identity.
    async fn join_opening(&mut self) {
        let Some(who) = self.who.clone() else { return };
        let Some(opening) = self.ends.as_mut().and_then(|ends| ends.opening.take()) else { return };
        self.ends.take_if(|ends| ends.lost.is_none());
        let (edge, client_id) = (Arc::clone(self.door.edge()), self.client_id);
        let caller = Caller { edge, who, client_id, transport: Transport::WebSocket };
        for joined in caller.join_all(&mut self.subscriptions, &opening, Lease::Stream).await {
            match joined {
                Ok(joined) => self.say(&joined),
                Err(fault) => self.tell(&fault, None),
            }
        }
    }

    /// Nobody types under this name on this connection any more.
    fn stop_typing(&self) {
        let Some(who) = &self.who else { return };
        for channel in self.subscriptions.channels() {
            self.door.edge().typing.gone(Channel::name(channel), &who.user_id, self.client_id);
        }
    }

    /// Refuses what the client has sent. After too many of these in a row, or one that a connection can't outlive, it
    /// ends with it.
    fn refuse(&mut self, fault: Fault, correlation_id: Option<&str>) -> Result<(), Fault> {
        // That the edge has no room is not the client's doing.
        self.violations += u8::from(fault.kind != Kind::Overloaded && fault.kind != Kind::Internal);
        if fault.kind.is_survivable() && self.violations < VIOLATIONS_MAX {
            self.tell(&fault, correlation_id);
            return Ok(());
        }
        self.say(&envelope::encode_error(&fault, correlation_id));
        self.told = true;
        Err(fault)
    }

    fn tell(&mut self, fault: &Fault, correlation_id: Option<&str>) {
        self.door.edge().metrics.fault(Transport::WebSocket, fault.kind);
        self.say(&envelope::encode_error(fault, correlation_id));
    }

    fn say(&mut self, json: &[u8]) {
        self.wire.outbox.message(OpCode::Text, json);
        self.door.edge().metrics.sent(Transport::WebSocket, 1);
    }

    /// Does what is due.
    fn tick(&mut self) -> Result<(), End> {
        let now = self.edge().bells.now();
        if std::mem::take(&mut self.heard) {
            self.clock.heard = now;
        }
        self.clock.amid = self.wire.is_amid_message().then(|| self.clock.amid.unwrap_or(now));
        if let Some(who) = &self.who {
            self.door.edge().may_stay(who, &mut self.seen)?;
        }
        let clock = &mut self.clock;
        if clock.leave.is_none() && self.door.edge().drain.has_begun() {
            let (leave, retry) = self.door.edge().drain.spread();
            clock.leave = Some(Box::new((now + leave, retry)));
        }
        if let Some((at, retry)) = clock.leave.as_deref().copied()
            && at <= now
        {
            let fault = Fault::new(Kind::Restart, "this node is being restarted");
            return Err(fault.with_retry_after(retry).into());
        }
        if clock.token_due.is_some_and(|due| due <= now) {
            return Err(End::from(match self.who {
                None => Fault::new(Kind::AuthenticationRequired, "no token came in time"),
                Some(_) => Fault::new(Kind::AuthenticationFailed, "the token has expired"),
            }));
        }
        let heartbeat = &self.door.edge().config.heartbeat;
        if clock.is_dead(now, heartbeat, self.wire.listens()) {
            return Err(End::Dead);
        }
        if clock.ping_due <= now {
            clock.pinged.get_or_insert(now);
            clock.ping_due = now + heartbeat.interval;
            self.wire.outbox.control(OpCode::Ping, &[]);
        }
        Ok(())
    }

    async fn close(self: Box<Self>, end: End) {
        debug!(connection = %self.client_id, reason = end.reason(), "websocket ends");
        self.stop_typing();
        let this = *self;
        // Given back before the goodbye, which may take a while.
        drop(this.subscriptions);
        end.say(this.wire, &this.door.edge().metrics, this.told).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Reader for Session<S> {
    fn give(&mut self, now: Instant) -> bool {
        // What is on its way, or comes before news, is its task's.
        if self.ends_now() || self.wire.is_busy() || self.wire.has_arrived() || self.is_called() {
            return true;
        }
        // Whoever is woken for room in the socket asks for it again first, with its own waker.
        let goes_on = self.deliver(&mut Context::from_waker(Waker::noop()), now);
        !goes_on || self.news || self.wire.is_busy()
    }

    fn glance(&self) -> usize {
        let words =
            [self.ends.is_some(), self.wire.is_busy(), self.wire.listens(), self.who.is_some(), self.news];
        words.map(usize::from).iter().sum::<usize>() + self.subscriptions.glance()
    }

    /// Gives the client the news of its channels, until something else comes: the socket, a drain or a revocation, the
    /// clock. A delivery begins and ends here, or in [`Reader::give`].
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut asked = false;
        loop {
            if let Err(loss) = self.wire.poll_flush(context) {
                self.is_lost(loss);
                return Poll::Ready(());
            }
            if self.ends_now() {
                return Poll::Ready(());
            }
            // Once: whatever comes after that wakes the task. A log that never runs dry is left now and then for want of
            // budget, and so does not keep the client unheard.
            if !asked {
                if let Poll::Ready(heard) = self.wire.poll_heard(context) {
                    self.heard = heard.map_err(|loss| self.is_lost(loss)).is_ok();
                    return Poll::Ready(());
                }
                asked = self.wire.listens();
            }
            // What did not fit before is served as soon as there is room for its answers.
            if self.wire.has_arrived() && self.has_room() {
                return Poll::Ready(());
            }
            let wake = self.subscriptions.wake();
            if self.wire.is_busy() {
                // News can wait until the last batch is on its way: there will be more of it then.
                return wake.poll_alarm(context);
            }
            if !self.news {
                match ready!(wake.poll_rung(context)) {
                    Rung::Alarm => return Poll::Ready(()),
                    Rung::News => self.news = true,
                }
            } else if wake.poll_alarm(context).is_ready() {
                return Poll::Ready(());
            }
            if self.is_called() || !self.deliver(context, self.edge().now()) {
                return Poll::Ready(());
            }
        }
    }

    fn go_on(self: Box<Self>) -> Life {
        Life::acts(self.act())
    }
}
