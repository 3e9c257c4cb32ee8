//! Tickets: short random words that stand for an identity once, so that a browser's WebSocket or EventSource, which
//! can send no header, needs no token in its URL. A ticket names the node that issued it, which alone redeems it: another
//! node that is shown one asks there. Never written anywhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::identity::Identity;
use crate::close::{Fault, Kind};

/// How long a ticket can be used: enough to open a connection, too short to be worth stealing from a log.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// Tickets that wait to be used, at most. 3,333 a second that nobody uses; some 6 MB, and the identities they hold.
const CAPACITY: usize = 100_000;

/// While the table is full it is searched for old tickets no more often than this: a search takes milliseconds.
const SEARCH_INTERVAL: Duration = Duration::from_millis(100);

/// 144 bits: guessing one of 100,000 in 30 s is hopeless at any rate of requests.
type Key = [u8; 18];

/// A key, and the number of the node: 35 characters.
const TICKET_BYTES: usize = size_of::<Key>() + size_of::<u64>();

/// The tickets of this node that wait to be used.
#[derive(Debug)]
pub struct Tickets {
    node: u64,
    table: Mutex<Table>,
    capacity: usize,
}

#[derive(Debug)]
struct Table {
    waiting: HashMap<Key, Waiting>,
    /// Before that, searching a full table is in vain or too early.
    search_at: Instant,
}

#[derive(Debug)]
struct Waiting {
    identity: Arc<Identity>,
    until: Instant,
}

impl Tickets {
    /// An empty table of the node with that number.
    pub fn new(node: u64) -> Self {
        Self::with_capacity(node, CAPACITY)
    }

    fn with_capacity(node: u64, capacity: usize) -> Self {
        let table = Table { waiting: HashMap::new(), search_at: Instant::now() };
        Self { node, table: Mutex::new(table), capacity }
    }

    /// A new ticket for that identity: URL-safe characters, good for [`TICKET_LIFETIME`], once.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] while as many wait as there may; it says when the first of them ends.
    pub fn issue(&self, identity: Arc<Identity>) -> Result<String, Fault> {
        let key: Key = rand::random();
        let now = Instant::now();
        let mut table = self.table.lock();
        if table.waiting.len() >= self.capacity {
            table.make_room(now);
        }
        if table.waiting.len() >= self.capacity {
            let wait = table.search_at.saturating_duration_since(now);
            return Err(
                Fault::new(Kind::Overloaded, "too many tickets wait to be used").with_retry_after(wait)
            );
        }
        table.waiting.insert(key, Waiting { identity, until: now + TICKET_LIFETIME });
        let mut ticket = [0; TICKET_BYTES];
        let (first, last) = ticket.split_at_mut(key.len());
        first.copy_from_slice(&key);
        last.copy_from_slice(&self.node.to_be_bytes());
        Ok(URL_SAFE_NO_PAD.encode(ticket))
    }

    /// The number of the node that has issued the ticket, if it is another one.
    pub fn issuer_elsewhere(&self, ticket: &str) -> Option<u64> {
        parse(ticket).map(|(_, node)| node).filter(|node| *node != self.node)
    }

    /// Who the ticket of this node is for, if it is known and neither used nor too old; it is used up by this. Not for an identity
    /// whose token has run out meanwhile.
    pub fn redeem(&self, ticket: &str) -> Option<Arc<Identity>> {
        let (key, _) = parse(ticket).filter(|(_, node)| *node == self.node)?;
        let Waiting { identity, until } = self.table.lock().waiting.remove(&key)?;
        let is_good =
            Instant::now() < until && identity.expires_at().is_none_or(|end| SystemTime::now() < end);
        is_good.then_some(identity)
    }

    /// Forgets tickets that are too old and gives memory back. To be called every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.waiting.retain(|_, ticket| now < ticket.until);
        if table.waiting.len() < table.waiting.capacity() / 4 {
            let room = table.waiting.len() * 2;
            table.waiting.shrink_to(room);
        }
    }

    /// How many wait to be used, the too old that were not swept yet included.
    pub fn len(&self) -> usize {
        self.table.lock().waiting.len()
    }

    /// Whether none waits to be used.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn make_room(&mut self, now: Instant) {
        if now < self.search_at {
            return;
        }
        self.waiting.retain(|_, ticket| now < ticket.until);
        let first_to_end = self.waiting.values().map(|ticket| ticket.until).min().unwrap_or(now);
        self.search_at = first_to_end.max(now + SEARCH_INTERVAL);
    }
}

fn parse(ticket: &str) -> Option<(Key, u64)> {
    let bytes: [u8; TICKET_BYTES] = URL_SAFE_NO_PAD.decode(ticket).ok()?.try_into().ok()?;
    let (key, node) = bytes.split_at(size_of::<Key>());
    Some((key.try_into().ok()?, u64::from_be_bytes(node.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NODE: u64 = 0xff00_0000_0000_0001;

    fn guest() -> Arc<Identity> {
        Arc::new(Identity::guest_of_connection())
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once() {
        let tickets = Tickets::new(NODE);
        let identity = guest();
        let ticket = tickets.issue(Arc::clone(&identity)).unwrap();
        assert_eq!(ticket.len(), 35);
        assert!(Arc::ptr_eq(&tickets.redeem(&ticket).unwrap(), &identity));
        assert!(tickets.redeem(&ticket).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_ends_after_its_lifetime() {
        let tickets = Tickets::new(NODE);
        let (one, two) = (tickets.issue(guest()).unwrap(), tickets.issue(guest()).unwrap());
        advance(Duration::from_millis(29_999)).await;
        assert!(tickets.redeem(&one).is_some());
        advance(Duration::from_millis(1)).await;
        assert!(tickets.redeem(&two).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_does_not_outlive_its_token() {
        let tickets = Tickets::new(NODE);
        let mut identity = Identity::guest_of_connection();
        identity.expires_ms = Some(std::num::NonZeroU64::MIN);
        let ticket = tickets.issue(Arc::new(identity)).unwrap();
        assert!(tickets.redeem(&ticket).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_ticket_is_none() {
        let tickets = Tickets::new(NODE);
        let ticket = tickets.issue(guest()).unwrap();
        for wrong in [
            "",
            "a",
            "ä",
            &ticket[1..],
            &format!("{ticket}a"),
            &format!("{ticket}="),
            &"A".repeat(24),
            &"A".repeat(35),
        ] {
            assert!(tickets.redeem(wrong).is_none(), "{wrong}");
        }
        assert!(tickets.redeem(&ticket).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_names_its_node() {
        let (here, there) = (Tickets::new(NODE), Tickets::new(7));
        let ticket = there.issue(guest()).unwrap();
        assert_eq!(here.issuer_elsewhere(&ticket), Some(7));
        assert_eq!(there.issuer_elsewhere(&ticket), None);
        assert!(here.redeem(&ticket).is_none());
        assert!(there.redeem(&ticket).is_some());
        for wrong in ["", "a", "ä", &"A".repeat(24), &format!("{ticket}A")] {
            assert_eq!(here.issuer_elsewhere(wrong), None, "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_differ() {
        let tickets = Tickets::new(NODE);
        let mut all: Vec<_> = (0..1000).map(|_| tickets.issue(guest()).unwrap()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_says_when_to_come_again_and_then_has_room() {
        let tickets = Tickets::with_capacity(NODE, 3);
        for _ in 0..3 {
            tickets.issue(guest()).unwrap();
            advance(Duration::from_secs(1)).await;
        }
        let fault = tickets.issue(guest()).unwrap_err();
        assert_eq!(fault.kind, Kind::Overloaded);
        assert_eq!(fault.retry_after, Some(Duration::from_secs(27)));
        advance(Duration::from_secs(27)).await;
        let ticket = tickets.issue(guest()).unwrap();
        assert_eq!(tickets.len(), 3);
        assert!(tickets.issue(guest()).is_err());
        // One that is used makes room at once.
        tickets.redeem(&ticket).unwrap();
        assert!(tickets.issue(guest()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_forgets_the_old() {
        let tickets = Tickets::new(NODE);
        tickets.issue(guest()).unwrap();
        advance(Duration::from_secs(20)).await;
        let young = tickets.issue(guest()).unwrap();
        advance(Duration::from_secs(10)).await;
        tickets.sweep();
        assert_eq!(tickets.len(), 1);
        assert!(tickets.redeem(&young).is_some() && tickets.is_empty());
    }
}
