//! Many connections on one thread: opened so many at a time, read as they become readable, counted together. A load
//! tool with a task for each would measure itself; this one reads a delivery for a fraction of what it costs to send.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::mark::Clock;
use super::member::{Member, Shared, Tally};
use super::socket::Socket;
use super::source;
use super::subject::Subject;
use super::talk::{Role, Way};
use crate::feed::Transport;

/// A connection that is to be made.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Which of the herd's channels it reads.
    pub channel: usize,
    /// Where an earlier one had come to, or empty.
    pub position: String,
}

/// The connections.
pub struct Herd<'a> {
    subject: &'a Subject,
    way: Way,
    channels: Arc<[String]>,
    poll: Poll,
    events: Events,
    members: Vec<Option<Member>>,
    waiting: VecDeque<(usize, Seat)>,
    shared: Shared,
    scratch: Vec<u8>,
    /// Connections that are being made.
    opening: usize,
}

/// Bytes of one read: what a few hundred messages have.
const SCRATCH: usize = 256 << 10;

impl<'a> Herd<'a> {
    /// Without a connection yet. Each takes note of where it has come to, if it shall `remember`.
    ///
    /// # Errors
    /// When the kernel has no epoll instance left.
    pub fn new(
        subject: &'a Subject,
        transport: Transport,
        channels: Arc<[String]>,
        clock: Clock,
        remember: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            subject,
            way: Way { kind: subject.kind, role: Role::Subscriber(transport) },
            channels,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            members: Vec::new(),
            waiting: VecDeque::new(),
            shared: Shared::new(clock, remember),
            scratch: vec![0; SCRATCH],
            opening: 0,
        })
    }

    /// Makes these connections, at most `at_once` at a time, and waits until all stand or have failed.
    ///
    /// # Errors
    /// When not all have done either in that time.
    pub fn join(
        &mut self,
        seats: impl IntoIterator<Item = Seat>,
        at_once: usize,
        patience: Duration,
    ) -> io::Result<()> {
        let first = self.members.len();
        self.waiting.extend(seats.into_iter().enumerate().map(|(index, seat)| (first + index, seat)));
        self.members.resize_with(first + self.waiting.len(), || None);
        let end = Instant::now() + patience;
        loop {
            while self.opening < at_once
                && let Some((index, seat)) = self.waiting.pop_front()
            {
                self.open(index, &seat);
            }
            if self.opening == 0 && self.waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                let missing = self.opening + self.waiting.len();
                return Err(io::Error::other(format!("{missing} connections do not stand in time")));
            }
            self.turn(Duration::from_millis(100))?;
        }
    }

    /// Waits until something happens or the time is over, and does what follows from it.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn turn(&mut self, wait: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            let index = event.token().0;
            let Some(member) = self.members.get_mut(index).and_then(Option::as_mut) else { continue };
            let stood = member.joined;
            let name = &self.channels[member.channel];
            let done = member.turn(event.is_read_closed(), name, &mut self.scratch, &mut self.shared);
            let stands = member.joined;
            if !stood && (stands || done.is_err()) {
                self.opening -= 1;
            }
            if let Err(why) = done {
                fail(&mut self.shared.tally, stands, why);
                self.members[index] = None;
            }
        }
        Ok(())
    }

    /// Goes on until that is true of what was counted, or the time is over; tells which.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Tally) -> bool) -> io::Result<bool> {
        loop {
            if done(&self.shared.tally) {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.turn(left.min(Duration::from_millis(20)))?;
        }
    }

    /// What was counted.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Begins the counts of deliveries anew.
    pub fn forget_deliveries(&mut self) {
        let tally = &mut self.shared.tally;
        (tally.delivered, tally.again, tally.latencies) = (0, 0, super::Histogram::default());
        for member in self.members.iter_mut().flatten() {
            member.distinct = 0;
        }
    }

    /// Channel, and messages without those that came again, of each connection that lives.
    pub fn members(&self) -> impl Iterator<Item = (usize, u32)> {
        self.members.iter().flatten().map(|member| (member.channel, member.distinct))
    }

    /// Ends all connections without a word, and returns where each had come to.
    pub fn cut(self) -> Vec<Seat> {
        let seat = |member: Member| {
            let seat = Seat { channel: member.channel, position: member.position };
            member.socket.reset();
            seat
        };
        self.members.into_iter().flatten().map(seat).collect()
    }

    fn open(&mut self, index: usize, seat: &Seat) {
        let socket =
            Socket::connect(&self.subject.address, source(index), self.poll.registry(), Token(index));
        match socket {
            Ok(socket) => {
                let token = self.subject.user_token(index);
                let channel = (seat.channel, self.channels[seat.channel].as_str());
                self.members[index] = Some(Member::new(socket, self.way, channel, token, &seat.position));
                self.opening += 1;
            }
            Err(error) => fail(&mut self.shared.tally, false, error.to_string()),
        }
    }
}

/// One that stood is not counted as joined any longer.
fn fail(tally: &mut Tally, stood: bool, why: String) {
    tally.joined -= usize::from(stood);
    tally.failed += 1;
    tally.first_failure.get_or_insert(why);
}

/// Connections over the channels in turn.
pub fn spread(connections: usize, channels: usize) -> impl Iterator<Item = Seat> {
    (0..connections).map(move |index| Seat { channel: index % channels, position: String::new() })
}
