//! All revocations that a node knows. Looking is cheap while nothing has changed: a connection compares one number,
//! [`Revocations::generation`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{Revocation, Revoked, Span, TokenId, Whose, milliseconds};
use crate::auth::identity::Identity;

/// Revocations at once, at most; some 30 MB. More are refused, since none may be forgotten before its time.
pub const MAX_REVOCATIONS: usize = 100_000;

/// All revocations that hold.
#[derive(Debug)]
pub struct Revocations {
    most: usize,
    table: RwLock<Table>,
    /// How many hold; 0 spares everybody the lock.
    count: AtomicUsize,
    /// Never 0, which is what those have seen who never looked.
    generation: AtomicU32,
    /// Those whose connections have not been told.
    news: Mutex<Revoked>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Table {
    users: HashMap<Box<str>, Span>,
    tokens: HashMap<TokenId, (Box<str>, Span)>,
}

impl Revocations {
    /// None.
    pub fn new() -> Self {
        Self::with_room_for(2 * MAX_REVOCATIONS)
    }

    fn with_room_for(most: usize) -> Self {
        Self {
            most,
            table: RwLock::default(),
            count: AtomicUsize::new(0),
            generation: AtomicU32::new(1),
            news: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Takes one that is stored, most often one that is known already. `false` if it can't be taken, with twice
    /// [`MAX_REVOCATIONS`] here.
    pub fn apply(&self, revocation: &Revocation) -> bool {
        let now = milliseconds(SystemTime::now());
        if !revocation.span.holds(now) {
            return true;
        }
        let mut table = self.table.write();
        if table.len() >= self.most {
            return false;
        }
        if !table.insert(revocation) {
            return true;
        }
        self.count.store(table.len(), Ordering::Release);
        drop(table);
        self.news.lock().add(revocation);
        // After the table: who sees the new number finds the revocation there.
        let next = |generation: u32| Some(generation.checked_add(1).unwrap_or(1));
        let _ = self.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        self.bell.notify_one();
        true
    }

    /// Another number after each revocation, and never 0. Who has seen the same number before need not look again.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the token behind this identity was taken back.
    pub fn covers(&self, identity: &Identity) -> bool {
        if self.count.load(Ordering::Acquire) == 0 || identity.is_guest() {
            return false;
        }
        let now = milliseconds(SystemTime::now());
        let table = self.table.read();
        let user = table.users.get(&*identity.user_id);
        let token = identity.token_id.and_then(|id| table.tokens.get(&id));
        user.is_some_and(|span| span.holds(now) && u64::from(identity.issued_at) * 1000 < span.at)
            || token.is_some_and(|(_, span)| span.holds(now))
    }

    /// Waits for revocations whose connections have not been told, and takes them. For one caller.
    ///
    /// # Cancel safety
    /// Nothing is lost by cancelling it.
    pub async fn news(&self) -> Revoked {
        loop {
            let mut news = std::mem::take(&mut *self.news.lock());
            if !news.is_empty() {
                news.sort();
                return news;
            }
            self.bell.notified().await;
        }
    }

    /// Forgets those that are over. To be called now and then.
    pub fn sweep(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let now = milliseconds(SystemTime::now());
        // Most often there is nothing to do, and nobody has to wait for that.
        if self.table.read().spans().all(|span| span.holds(now)) {
            return;
        }
        let mut table = self.table.write();
        table.users.retain(|_, span| span.holds(now));
        table.tokens.retain(|_, (_, span)| span.holds(now));
        let (users, tokens) = (2 * table.users.len(), 2 * table.tokens.len());
        table.users.shrink_to(users);
        table.tokens.shrink_to(tokens);
        self.count.store(table.len(), Ordering::Release);
    }

    /// What is known of the same tokens.
    pub fn find(&self, whose: &Whose) -> Option<Revocation> {
        let table = self.table.read();
        let span = match whose {
            Whose::User(sub) => table.users.get(sub),
            Whose::Token(jti) => table.tokens.get(&TokenId::new(jti)).map(|(_, span)| span),
        };
        span.map(|span| Revocation { whose: whose.clone(), span: *span })
    }

    /// All that are known, in no order.
    pub fn list(&self) -> Vec<Revocation> {
        let table = self.table.read();
        let users =
            table.users.iter().map(|(sub, span)| Revocation { whose: Whose::User(sub.clone()), span: *span });
        let tokens = table
            .tokens
            .values()
            .map(|(jti, span)| Revocation { whose: Whose::Token(jti.clone()), span: *span });
        users.chain(tokens).collect()
    }

    /// How many there are, those included that are over and were not swept yet.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    fn len(&self) -> usize {
        self.users.len() + self.tokens.len()
    }

    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.users.values().chain(self.tokens.values().map(|(_, span)| span))
    }

    /// Whether it is more than was known.
    fn insert(&mut self, revocation: &Revocation) -> bool {
        let span = match &revocation.whose {
            Whose::User(sub) => self.users.entry(sub.clone()).or_insert(Span { at: 0, until: 0 }),
            Whose::Token(jti) => {
                let entry = self.tokens.entry(TokenId::new(jti));
                &mut entry.or_insert_with(|| (jti.clone(), Span { at: 0, until: 0 })).1
            }
        };
        let known = std::mem::replace(span, revocation.span.with(Some(*span)));
        known != *span
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Marks, REVOCATION_DEFAULT};
    use super::*;
    use crate::auth::Authenticator;
    use crate::auth::testing::{hs256, seconds_from_now, with_secret};

    fn identity(sub: &str, jti: Option<&str>, issued: Option<i64>) -> Identity {
        let issued = issued.map(seconds_from_now);
        let claims = serde_json::json!({"sub": sub, "exp": seconds_from_now(60), "jti": jti, "iat": issued});
        Authenticator::new(&with_secret()).unwrap().verify(&hs256(&claims)).unwrap()
    }

    fn of_user(sub: &str) -> Revocation {
        Revocation::now(Whose::user(sub).unwrap(), REVOCATION_DEFAULT).unwrap()
    }

    fn of_token(jti: &str) -> Revocation {
        Revocation::now(Whose::token(jti).unwrap(), REVOCATION_DEFAULT).unwrap()
    }

    #[test]
    fn a_users_earlier_tokens_are_covered_and_no_others() {
        let revocations = Revocations::new();
        assert!(revocations.apply(&of_user("bob")));
        assert!(revocations.covers(&identity("bob", None, Some(-5))));
        assert!(revocations.covers(&identity("bob", Some("a"), None)), "without iat");
        // Which moment of this second it was is not known.
        assert!(revocations.covers(&identity("bob", None, Some(0))));
        assert!(!revocations.covers(&identity("eve", None, Some(-5))));
        assert!(!revocations.covers(&Identity::guest_of_connection()));
        let mut later = identity("bob", None, Some(0));
        later.issued_at += 1;
        assert!(!revocations.covers(&later));
    }

    #[test]
    fn one_token_is_covered_by_its_id() {
        let revocations = Revocations::new();
        assert!(revocations.apply(&of_token("one")));
        assert!(revocations.covers(&identity("bob", Some("one"), Some(0))));
        for other in [Some("two"), None] {
            assert!(!revocations.covers(&identity("bob", other, Some(0))), "{other:?}");
        }
    }

    #[test]
    fn what_is_over_is_good_again_and_swept() {
        let revocations = Revocations::new();
        let mut over = of_user("bob");
        over.span.until = milliseconds(SystemTime::now());
        assert!(revocations.apply(&over) && revocations.is_empty());
        assert!(revocations.apply(&of_token("one")));
        // As one that ends while it is there.
        revocations.table.write().insert(&over);
        assert!(!revocations.covers(&identity("bob", None, None)));
        assert_eq!(revocations.list().len(), 2);
        revocations.sweep();
        let left = revocations.list();
        assert_eq!((revocations.len(), left[0].whose()), (1, of_token("one").whose()));
    }

    #[test]
    fn a_table_has_an_end() {
        let revocations = Revocations::with_room_for(2);
        let took = ["one", "two", "three"].map(|jti| revocations.apply(&of_token(jti)));
        assert_eq!((took, revocations.len()), ([true, true, false], 2));
        assert!(!revocations.covers(&identity("bob", Some("three"), None)));
        revocations.table.write().tokens.retain(|_, (jti, _)| **jti == *"two");
        assert!(revocations.apply(&of_token("three")));
        assert!(revocations.covers(&identity("bob", Some("three"), None)));
    }

    #[test]
    fn the_longer_of_two_counts_whichever_comes_last() {
        let long = of_user("bob");
        let mut short = Revocation::now(Whose::user("bob").unwrap(), Duration::from_secs(9)).unwrap();
        short.span.at = long.span.at + 1000;
        let both = Span { at: short.span.at, until: long.span.until };
        for order in [[&long, &short], [&short, &long]] {
            let revocations = Revocations::new();
            assert!(order.into_iter().all(|one| revocations.apply(one)));
            assert_eq!(revocations.find(&long.whose).unwrap().span, both);
        }
        assert_eq!(short.clone().with(Some(&long)).span, both);
        assert_eq!(short.clone().with(Some(&of_user("eve"))), short);
    }

    #[tokio::test(start_paused = true)]
    async fn news_are_told_once_and_ring_those_they_concern() {
        let revocations = Revocations::new();
        let generation = revocations.generation();
        let twice = of_user("bob");
        for one in [&twice, &of_token("one"), &twice] {
            assert!(revocations.apply(one));
        }
        assert_eq!(revocations.generation(), generation + 2, "the third is no news");
        let news = revocations.news().await;
        assert!(news.concerns(Marks::of(&identity("bob", None, None))));
        assert!(news.concerns(Marks::of(&identity("eve", Some("one"), None))));
        assert!(!news.concerns(Marks::of(&identity("eve", Some("two"), None))));
        assert!(!news.concerns(Marks::NONE));
        let none = tokio::time::timeout(Duration::from_secs(1), revocations.news()).await;
        assert!(none.is_err(), "{none:?}");
    }
}
