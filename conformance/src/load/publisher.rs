//! One publisher on a thread of its own: at a rate, whatever the server does, or as fast as the server takes it. It is
//! late by what it says, so that a stall of the machine is not taken for one of the server.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::mark::{Clock, Mark};
use super::member::{Member, Shared};
use super::socket::Socket;
use super::subject::Subject;
use super::talk::Way;

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many messages a second, over all channels.
    PerSecond(f64),
    /// As fast as the server takes them.
    FlatOut,
}

/// What is published: messages over the channels in turn.
#[derive(Clone, Copy, Debug)]
pub struct Publication {
    /// How fast.
    pub pace: Pace,
    /// How many messages.
    pub messages: u32,
    /// How many had been published on these channels before.
    pub before: u32,
    /// Size of a message's data, in bytes.
    pub data_bytes: usize,
}

/// How long the connection may take to stand.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that publishes.
pub struct Publisher<'a> {
    channels: &'a [String],
    way: Way,
    poll: Poll,
    events: Events,
    member: Member,
    shared: Shared,
    scratch: Vec<u8>,
}

impl<'a> Publisher<'a> {
    /// Connects, and waits until messages may be sent.
    ///
    /// # Errors
    /// In words, when it does not stand in ten seconds.
    pub fn open(subject: &Subject, channels: &'a [String], clock: Clock) -> io::Result<Self> {
        let way = Way::publisher(subject.kind, channels.len());
        let poll = Poll::new()?;
        let socket = Socket::connect(&subject.address, Ipv4Addr::LOCALHOST, poll.registry(), Token(0))?;
        let member = Member::new(socket, way, (0, &channels[0]), subject.publisher_token(), "");
        let (shared, scratch) = (Shared::new(clock, false), vec![0; 64 << 10]);
        let events = Events::with_capacity(16);
        let mut publisher = Self { channels, way, poll, events, member, shared, scratch };
        let end = Instant::now() + PATIENCE;
        while !publisher.member.joined {
            if Instant::now() > end {
                return Err(io::Error::other("the publisher's connection does not stand in time"));
            }
            publisher.turn(Duration::from_millis(100))?;
        }
        Ok(publisher)
    }

    /// Publishes all of it, says so in `sent`, and stays until it is told to `stop`. Returns by how much it was late
    /// at most.
    ///
    /// # Errors
    /// When the server refuses, or ends the connection.
    pub fn run(
        &mut self,
        publication: Publication,
        sent: &AtomicBool,
        stop: &AtomicBool,
    ) -> io::Result<Duration> {
        let begin = Instant::now();
        let (mut late, mut next) = (Duration::ZERO, 0);
        while next < publication.messages && !stop.load(Ordering::Relaxed) {
            match publication.pace {
                Pace::PerSecond(rate) => {
                    let due = begin + Duration::from_secs_f64(f64::from(next) / rate);
                    self.wait(due)?;
                    late = late.max(due.elapsed());
                    self.queue(publication, next, due);
                    next += 1;
                }
                Pace::FlatOut => {
                    // Some at once: one system call for each message would be the limit.
                    let end = publication.messages.min(next + 32);
                    for message in next..end {
                        self.queue(publication, message, Instant::now());
                    }
                    next = end;
                    while !self.member.socket.is_flushed() && !stop.load(Ordering::Relaxed) {
                        self.turn(Duration::from_millis(20))?;
                    }
                }
            }
        }
        while !self.member.socket.is_flushed() && !stop.load(Ordering::Relaxed) {
            self.turn(Duration::from_millis(20))?;
        }
        sent.store(true, Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(late)
    }

    fn queue(&mut self, publication: Publication, index: u32, due: Instant) {
        let index = publication.before + index;
        let count = u32::try_from(self.channels.len()).expect("fewer than 2^32 channels");
        let channel = usize::try_from(index % count).expect("a machine of 32 bits or more");
        let mark = Mark { number: index / count + 1, due: self.shared.clock.of(due) };
        let data = mark.data(publication.data_bytes);
        self.member.socket.queue(&self.way.publication(&self.channels[channel], &data));
    }

    /// Until that moment, with what is queued sent before.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own; epoll counts in milliseconds")]
    fn wait(&mut self, until: Instant) -> io::Result<()> {
        let mut left = until.saturating_duration_since(Instant::now());
        if left.is_zero() && self.member.socket.queued_bytes() < 16 << 10 {
            return Ok(());
        }
        self.turn(Duration::ZERO)?;
        while left > Duration::from_millis(2) {
            self.turn(left.saturating_sub(Duration::from_millis(1)))?;
            left = until.saturating_duration_since(Instant::now());
        }
        std::thread::sleep(left);
        Ok(())
    }

    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        self.member.send(&[]).map_err(io::Error::other)?;
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            let ended = event.is_read_closed();
            self.member
                .turn(ended, &self.channels[0], &mut self.scratch, &mut self.shared)
                .map_err(|why| io::Error::other(format!("publisher: {why}")))?;
        }
        Ok(())
    }
}
