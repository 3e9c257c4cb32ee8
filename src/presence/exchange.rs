//! The conversation of the nodes about presence and typing, over core NATS: one task that says what has changed here,
//! hears what has changed elsewhere, and asks for all of it where something was missed.
//!
//! ```text
//!   hello n      to all, at the start: who is there?                answered by each with a beat
//!   beat n       to all, every second; n is the last change         a lost tail is noticed by it
//!   changes n    to all, some 50 ms after the first of them         a hole is noticed by n
//!   bye          to all, at the end                                 members go after their grace
//!   who? next    to one, when its members are not known             answered with as many as fit, and where to go on
//!   typing       to all, at once
//! ```
//!
//! A change says how a member is, not what it did: to hear one twice does no harm, and what could not be said is made
//! good by the next account of all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::others::{Chore, Others};
use super::roster::Roster;
use super::typing::Typing;
use super::word::{Keystroke, List, Members, Word};
use crate::bus::BusError;
use crate::bus::nats::{NodeId, Peers, Question, Questions, Said, Words};

/// The topic of presence, in words and questions.
const PRESENCE: &str = "presence";
/// The topic of typing.
const TYPING: &str = "typing";
/// How long changes are gathered.
const TICK: Duration = Duration::from_millis(50);
/// How often this node says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// A task that was not run for so long was not alone in that: the whole node was stopped, and has heard nobody.
const OUT: Duration = Duration::from_secs(3);
/// How long one word may wait to be sent.
const SAY_PATIENCE: Duration = Duration::from_secs(1);
/// How long another node may take to answer.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of one word of changes.
const CHANGES_BYTES: usize = 64 * 1024;
/// Bytes of one answer.
const ANSWER_BYTES: usize = 256 * 1024;
/// Keystrokes that wait to be told; more are lost.
const KEYSTROKES: usize = 4096;
/// Keystrokes in one word.
const KEYSTROKES_TOLD: usize = 64;
/// When a node that starts greets; the second time, for NATS servers that had not heard of it the first time.
const GREETINGS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(100)];
/// How long a node that starts waits for others to show up at least, and until it has heard them out at most.
const MEETING: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// One node's part in it.
pub struct Exchange {
    roster: Arc<Roster>,
    typing: Arc<Typing>,
    peers: Peers,
    others: Others,
    words: Words,
    typing_words: Words,
    questions: Questions,
    keystrokes: mpsc::Receiver<Keystroke>,
    /// The questions that are out.
    asking: JoinSet<(NodeId, u16, Result<Bytes, BusError>)>,
    tick: Interval,
    ticked: Instant,
    beat_due: Instant,
    /// The last change that was said.
    number: u64,
}

impl Exchange {
    /// Begins it: from now on `roster` and `typing` are those of all nodes. Returns when the members of the others are
    /// known, or after a second.
    ///
    /// # Errors
    /// [`BusError`] if the connection to NATS has ended for good.
    pub async fn begin(roster: Arc<Roster>, typing: Arc<Typing>, peers: Peers) -> Result<Self, BusError> {
        let (sender, keystrokes) = mpsc::channel(KEYSTROKES);
        roster.share_as(peers.node());
        typing.share_with(sender);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = now();
        let mut exchange = Self {
            others: Others::new(Arc::clone(&roster)),
            words: peers.listen(PRESENCE).await?,
            typing_words: peers.listen(TYPING).await?,
            questions: peers.questions(PRESENCE).await?,
            roster,
            typing,
            peers,
            keystrokes,
            asking: JoinSet::new(),
            tick,
            ticked: now,
            beat_due: now + BEAT,
            number: 0,
        };
        exchange.meet(now).await;
        Ok(exchange)
    }

    /// Goes on until `stop`, then says goodbye. Its members must have left by then: they go everywhere after their grace.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                goes_on = self.turn() => if !goes_on { return },
            }
        }
        if self.peers.is_connected() {
            self.tell_changes().await;
            self.say(PRESENCE, Word::bye()).await;
            let _ = timeout(SAY_PATIENCE, self.peers.flush()).await;
        }
    }

    /// Greets, and hears the others out.
    async fn meet(&mut self, begun: Instant) {
        let mut greetings = GREETINGS.into_iter().peekable();
        let [least, most] = MEETING;
        loop {
            let since = now().saturating_duration_since(begun);
            if since >= most || (since >= least && self.others.is_complete()) {
                return;
            }
            if greetings.next_if(|at| *at <= since).is_some() {
                self.say(PRESENCE, Word::hello(self.number)).await;
            }
            if !self.turn().await {
                return;
            }
        }
    }

    /// One thing that happens; `false` when the connection has ended for good.
    async fn turn(&mut self) -> bool {
        tokio::select! {
            said = self.words.next() => match said {
                Some(said) => self.hear(said).await,
                None => return false,
            },
            said = self.typing_words.next() => match said {
                Some(said) => Keystroke::parse(&said.payload).into_iter().for_each(|one| self.typing.hear(one)),
                None => return false,
            },
            question = self.questions.next() => match question {
                Some(question) => self.answer(question).await,
                None => return false,
            },
            Some(done) = self.asking.join_next() => {
                if let Ok((node, generation, answer)) = done {
                    let members = answer.ok().and_then(|bytes| Members::parse(&bytes));
                    let chore = self.others.answered(node, generation, members, now());
                    self.see_to(chore).await;
                }
            }
            Some(first) = self.keystrokes.recv() => self.tell_keystrokes(first).await,
            _ = self.tick.tick() => self.look().await,
        }
        true
    }

    async fn hear(&mut self, said: Said) {
        let Some(word) = Word::parse(&said.payload) else {
            tracing::debug!(node = %said.from, "said something about presence that is not understood");
            return;
        };
        let chore = self.others.hear(said.from, word, now());
        self.see_to(chore).await;
    }

    /// What time brings.
    async fn look(&mut self) {
        let now = now();
        if now.saturating_duration_since(self.ticked) >= OUT {
            self.others.forgive(now);
        }
        self.ticked = now;
        if self.peers.is_connected() {
            self.tell_changes().await;
            if self.beat_due <= now {
                self.beat_due = now + BEAT;
                self.say(PRESENCE, Word::beat(self.number)).await;
            }
        }
        for chore in self.others.due(now) {
            self.see_to(Some(chore)).await;
        }
    }

    async fn see_to(&mut self, chore: Option<Chore>) {
        match chore {
            None => {}
            Some(Chore::Beat) => self.say(PRESENCE, Word::beat(self.number)).await,
            Some(Chore::Ask { node, generation, next }) => {
                let peers = self.peers.clone();
                self.asking.spawn(async move {
                    let question = Members::question(next);
                    (node, generation, peers.ask(node, PRESENCE, question, ASK_PATIENCE).await)
                });
            }
            Some(Chore::Release { node, keep, going }) => {
                let roster = Arc::clone(&self.roster);
                // Waited for: what is said next must not be undone by it.
                let released = tokio::task::spawn_blocking(move || roster.release(node, keep, going)).await;
                if released.is_err() {
                    tracing::error!(%node, "its members could not be taken out");
                }
            }
        }
    }

    async fn answer(&mut self, question: Question) {
        let Ok(next) = Members::parse_question(&question.payload) else { return };
        let mut list = List::new(ANSWER_BYTES.min(self.peers.max_payload()));
        let next = self.roster.write_members(next.as_ref(), &mut list);
        let _ = timeout(SAY_PATIENCE, question.answer(list.answer(self.number, next))).await;
    }

    async fn tell_changes(&mut self) {
        let (entries, whole) = self.roster.take_untold();
        if !whole {
            // A number that nobody hears: the next beat has everybody ask.
            self.number += 1;
            tracing::warn!("too many changes of presence to be told one by one");
        }
        let limit = CHANGES_BYTES.min(self.peers.max_payload());
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            self.number += 1;
            let (word, taken) = Word::changes(self.number, rest, limit);
            rest = &rest[taken..];
            self.say(PRESENCE, word).await;
        }
    }

    async fn tell_keystrokes(&mut self, first: Keystroke) {
        let mut told = vec![first];
        while told.len() < KEYSTROKES_TOLD
            && let Ok(next) = self.keystrokes.try_recv()
        {
            told.push(next);
        }
        // Said late it would be untrue.
        if self.peers.is_connected() {
            self.say(TYPING, Keystroke::write(&told)).await;
        }
    }

    /// What can't be said is missed by the others, who notice.
    async fn say(&self, topic: &'static str, word: Bytes) {
        match timeout(SAY_PATIENCE, self.peers.say(topic, word)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(topic, %error, "not said"),
            Err(_) => tracing::debug!(topic, "not said in time"),
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
