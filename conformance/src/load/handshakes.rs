//! Connections one after the other, as many as the server makes: TCP alone, with full TLS handshakes, or with those of
//! clients that come back with a ticket. Each is over as soon as it stands. What one costs the server is the figure;
//! how many there are in a second is as much the client's, who has the same arithmetic to do.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::HandshakeKind;

use super::cost::{Cost, Meter, precise};
use super::mark::Clock;
use super::member::{Member, Shared};
use super::socket::{Address, Socket};
use super::source;
use super::subject::Subject;
use super::talk::{Role, Way};
use crate::feed::Transport;

/// When a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// When the TLS handshake is over.
    Secured,
    /// When a WebSocket has joined its channel.
    Joined,
}

/// How many, and of what kind.
#[derive(Clone, Copy, Debug)]
pub struct Handshakes {
    /// When one stands.
    pub until: Until,
    /// Whether clients come back with a ticket.
    pub resumed: bool,
    /// How many at once.
    pub at_once: usize,
    /// For how long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HandshakesReport {
    /// Connections that stood.
    pub connections: u64,
    /// Those of them whose TLS session was resumed.
    pub resumed: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Why the first of them did.
    pub first_failure: Option<String>,
    /// In a second.
    pub per_second: f64,
    /// For each second of CPU time of the server.
    pub per_server_cpu_second: Option<f64>,
    /// CPU time of the server for each.
    pub server_cpu_us_each: Option<f64>,
    /// All that was spent.
    pub cost: Cost,
    /// Why the figures say less than they seem to.
    pub doubts: Vec<String>,
}

struct Rush<'a> {
    subject: &'a Subject,
    /// Of each slot's client: each has tickets of its own, since one is good for one connection only (RFC 8446 §C.4).
    addresses: Vec<Address>,
    plan: Handshakes,
    way: Way,
    channel: String,
    poll: Poll,
    slots: Vec<Option<Member>>,
    shared: Shared,
    report: HandshakesReport,
    begun: usize,
}

/// Connects for that time.
///
/// # Errors
/// When the server's processes can't be looked at.
pub fn handshakes(subject: &Subject, plan: &Handshakes) -> io::Result<HandshakesReport> {
    // Who only shakes hands asks for nothing.
    let role = match plan.until {
        Until::Secured => Role::Poster,
        Until::Joined => Role::Subscriber(Transport::WebSocket),
    };
    let mut rush = Rush {
        subject,
        addresses: (0..plan.at_once)
            .map(|_| if plan.resumed { subject.resuming() } else { subject.address.clone() })
            .collect(),
        plan: *plan,
        way: Way { kind: subject.kind, role },
        channel: format!("load:{:08x}", rand::random::<u32>()),
        poll: Poll::new()?,
        slots: (0..plan.at_once).map(|_| None).collect(),
        shared: Shared::new(Clock::start(), false),
        report: HandshakesReport::default(),
        begun: 0,
    };
    // Until tickets are there, and code is warm.
    rush.run(Duration::from_millis(300))?;
    rush.report = HandshakesReport::default();
    let meter = Meter::start(subject.family.as_ref())?;
    rush.run(plan.duration)?;
    let cost = meter.stop()?;
    let mut report = rush.report;
    let (stood, spent) = (precise(report.connections.max(1)), cost.server_seconds());
    report.per_second = stood / cost.seconds;
    report.per_server_cpu_second = (spent > 0.0).then(|| stood / spent);
    report.server_cpu_us_each = (spent > 0.0).then(|| spent * 1e6 / stood);
    report.doubts = cost.doubts();
    report.cost = cost;
    Ok(report)
}

impl Rush<'_> {
    fn run(&mut self, duration: Duration) -> io::Result<()> {
        let end = Instant::now() + duration;
        let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 16 << 10]);
        while Instant::now() < end {
            for slot in 0..self.slots.len() {
                if self.slots[slot].is_none() {
                    self.slots[slot] = self.begin(slot);
                }
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(20))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let slot = event.token().0;
                let Some(mut member) = self.slots[slot].take() else { continue };
                match member.turn(event.is_read_closed(), &self.channel, &mut scratch, &mut self.shared) {
                    Err(why) => self.fail(why),
                    Ok(()) if self.stands(&member) => {
                        let resumed = member.socket.handshake() == Some(HandshakeKind::Resumed);
                        self.report.connections += 1;
                        self.report.resumed += u64::from(resumed);
                    }
                    Ok(()) => self.slots[slot] = Some(member),
                }
            }
        }
        Ok(())
    }

    fn stands(&self, member: &Member) -> bool {
        match self.plan.until {
            Until::Secured => member.socket.is_open() && member.socket.is_flushed(),
            Until::Joined => member.joined,
        }
    }

    fn begin(&mut self, slot: usize) -> Option<Member> {
        self.begun += 1;
        match Socket::connect(&self.addresses[slot], source(self.begun), self.poll.registry(), Token(slot)) {
            Ok(socket) => {
                let token = match self.plan.until {
                    Until::Secured => String::new(),
                    Until::Joined => self.subject.user_token(slot),
                };
                Some(Member::new(socket, self.way, (0, &self.channel), token, ""))
            }
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        }
    }

    fn fail(&mut self, why: String) {
        self.report.failed += 1;
        self.report.first_failure.get_or_insert(why);
    }
}
