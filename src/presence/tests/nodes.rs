//! Several rosters that tell each other, word for word as they do over NATS, by hand: so a word can be lost, come in the
//! middle of an answer, or never.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::others::{Chore, Others};
use super::super::roster::Going;
use super::super::word::{Keystroke, List, Members, Word};
use super::super::{Lease, Member, Roster};
use super::*;
use crate::bus::nats::NodeId;

struct Node {
    id: NodeId,
    hub: Arc<Hub>,
    roster: Arc<Roster>,
    others: Others,
    number: u64,
    /// Bytes of its answers and words.
    limit: usize,
}

impl Node {
    fn new(number: u64) -> Self {
        let (hub, id) = (hub(), NodeId::new(number));
        let roster = Arc::new(Roster::new(Arc::clone(&hub)));
        roster.share_as(id);
        Self { id, hub, others: Others::new(Arc::clone(&roster)), roster, number: 0, limit: 64 * 1024 }
    }

    async fn join(&self, channel: &str, user: &str) -> Member {
        let channel = self.hub.open(&name(channel)).await.unwrap();
        self.roster.join(&channel, &user.into(), None, Lease::Stream)
    }

    /// A watcher in a channel of this node.
    async fn watch(&self, channel: &str) -> (Arc<Channel>, Cursor) {
        let channel = self.hub.open(&name(channel)).await.unwrap();
        let cursor = watcher(&channel);
        (channel, cursor)
    }

    /// The words that say what has changed here.
    fn changes(&mut self) -> Vec<Bytes> {
        let (entries, whole) = self.roster.take_untold();
        self.number += u64::from(!whole);
        let mut words = Vec::new();
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            self.number += 1;
            let (word, taken) = Word::changes(self.number, rest, self.limit);
            rest = &rest[taken..];
            words.push(word);
        }
        words
    }

    fn beat(&self) -> Bytes {
        Word::beat(self.number)
    }

    /// What it answers.
    fn answer(&self, question: &[u8]) -> Bytes {
        let next = Members::parse_question(question).expect("a question");
        let mut list = List::new(self.limit);
        let next = self.roster.write_members(next.as_ref(), &mut list);
        let answer = list.answer(self.number, next);
        assert!(answer.len() <= self.limit.max(6000), "{} bytes", answer.len());
        answer
    }

    fn hear(&mut self, from: NodeId, word: &[u8]) {
        let word = Word::parse(word).expect("a word");
        let chore = self.others.hear(from, word, now());
        self.see_to(chore.as_ref());
    }

    fn see_to(&self, chore: Option<&Chore>) {
        if let Some(&Chore::Release { node, keep, going }) = chore {
            self.roster.release(node, keep, going);
        }
    }

    /// Whom it wants to ask now; members of the silent go.
    fn questions(&mut self) -> Vec<(NodeId, u16, Bytes)> {
        let mut questions = Vec::new();
        for chore in self.others.due(now()) {
            match chore {
                Chore::Ask { node, generation, next } => {
                    questions.push((node, generation, Members::question(next)));
                }
                chore => self.see_to(Some(&chore)),
            }
        }
        questions
    }

    /// Takes an answer; the next question, if that was not all.
    fn take(&mut self, from: NodeId, generation: u16, answer: &[u8]) -> Option<Bytes> {
        let members = Members::parse(answer);
        assert!(members.is_some());
        match self.others.answered(from, generation, members, now()) {
            Some(Chore::Ask { next, .. }) => Some(Members::question(next)),
            chore => {
                self.see_to(chore.as_ref());
                None
            }
        }
    }

    /// Users of a channel as `user×connections`.
    fn list(&self, channel: &str) -> Vec<String> {
        let (users, total) = self.roster.list(&name(channel));
        assert_eq!(users.len(), total);
        users.iter().map(|user| format!("{}×{}", user.user_id, user.connections)).collect()
    }
}

/// All say and hear everything, until nobody has a question.
fn converse(nodes: &mut [&mut Node]) {
    for speaker in 0..nodes.len() {
        let from = nodes[speaker].id;
        let mut words = nodes[speaker].changes();
        words.push(nodes[speaker].beat());
        for hearer in (0..nodes.len()).filter(|hearer| *hearer != speaker) {
            for word in &words {
                nodes[hearer].hear(from, word);
            }
        }
    }
    for asker in 0..nodes.len() {
        for (node, generation, question) in nodes[asker].questions() {
            let mut question = Some(question);
            while let Some(asked) = question {
                let answerer = nodes.iter().find(|other| other.id == node);
                let Some(answer) = answerer.map(|other| other.answer(&asked)) else { break };
                question = nodes[asker].take(node, generation, &answer);
            }
        }
    }
}

async fn pass(nodes: &mut [&mut Node], time: Duration) {
    let step = Duration::from_millis(250);
    for _ in 0..time.as_millis().div_ceil(step.as_millis()) {
        tokio::time::sleep(step).await;
        converse(nodes);
        for node in nodes.iter() {
            node.roster.sweep();
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn sec(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_user_is_there_once_however_many_nodes_it_is_on() {
    let (mut a, mut b, mut c) = (Node::new(1), Node::new(2), Node::new(3));
    let (channel, mut cursor) = c.watch("chat:a").await;
    let here = a.join("chat:a", "alice").await;
    converse(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice true"]);
    let more = [b.join("chat:a", "alice").await, b.join("chat:a", "alice").await];
    let bob = b.join("chat:a", "bob").await;
    converse(&mut [&mut a, &mut b, &mut c]);
    for node in [&a, &b, &c] {
        assert_eq!(node.list("chat:a"), ["alice×3", "bob×1"]);
    }
    assert_eq!(told(&channel, &mut cursor), ["presence_update bob true"]);
    drop(here);
    pass(&mut [&mut a, &mut b, &mut c], sec(10)).await;
    drop((more, bob));
    pass(&mut [&mut a, &mut b, &mut c], sec(2)).await;
    assert_eq!(c.list("chat:a"), ["alice×1", "bob×1"]);
    // Back on another node, within 3 s.
    let back = c.join("chat:a", "alice").await;
    pass(&mut [&mut a, &mut b, &mut c], sec(10)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update bob false"]);
    for node in [&a, &b, &c] {
        assert_eq!(node.list("chat:a"), ["alice×1"]);
    }
    drop(back);
    pass(&mut [&mut a, &mut b, &mut c], sec(5)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice false"]);
    assert_eq!((a.list("chat:a").len(), b.list("chat:a").len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_back_at_the_last_moment_was_never_offline_anywhere() {
    let (mut a, mut b, mut c) = (Node::new(1), Node::new(2), Node::new(3));
    let (channel, mut cursor) = c.watch("chat:a").await;
    let (own, mut own_cursor) = a.watch("chat:a").await;
    let here = a.join("chat:a", "alice").await;
    converse(&mut [&mut a, &mut b, &mut c]);
    told(&channel, &mut cursor);
    told(&own, &mut own_cursor);
    drop(here);
    tokio::time::sleep(Duration::from_millis(2990)).await;
    let _back = b.join("chat:a", "alice").await;
    let late = b.changes();
    tokio::time::sleep(Duration::from_millis(310)).await;
    a.roster.sweep();
    // What the first node says comes before what the second has said earlier: nodes are in no order.
    for word in a.changes() {
        c.hear(a.id, &word);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    c.roster.sweep();
    for word in &late {
        c.hear(b.id, word);
        a.hear(b.id, word);
    }
    pass(&mut [&mut a, &mut b, &mut c], sec(5)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
    assert_eq!(c.list("chat:a"), ["alice×1"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_takes_its_members_with_it_and_brings_them_back() {
    let (mut a, mut b, mut c) = (Node::new(1), Node::new(2), Node::new(3));
    let (channel, mut cursor) = c.watch("chat:a").await;
    let _members =
        (a.join("chat:a", "alice").await, a.join("chat:a", "bob").await, b.join("chat:a", "bob").await);
    converse(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(told(&channel, &mut cursor).len(), 2);
    let began = now();
    while now() < began + Duration::from_millis(9700) {
        pass(&mut [&mut b, &mut c], Duration::from_millis(250)).await;
        assert_eq!(told(&channel, &mut cursor), [""; 0]);
    }
    pass(&mut [&mut b, &mut c], sec(1)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice false"]);
    assert_eq!(c.list("chat:a"), ["bob×1"]);
    // Cut off itself, it lets the others go as well, but nobody of its own.
    for chore in a.others.due(now()) {
        a.see_to(Some(&chore));
    }
    assert_eq!(a.list("chat:a"), ["alice×1", "bob×1"]);
    pass(&mut [&mut a, &mut b, &mut c], sec(1)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice true"]);
    for node in [&a, &b, &c] {
        assert_eq!(node.list("chat:a"), ["alice×1", "bob×2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_frozen_blames_nobody() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    let (channel, mut cursor) = a.watch("chat:a").await;
    let _bob = b.join("chat:a", "bob").await;
    converse(&mut [&mut a, &mut b]);
    told(&channel, &mut cursor);
    tokio::time::sleep(sec(20)).await;
    a.others.forgive(now());
    assert!(a.questions().is_empty());
    pass(&mut [&mut a, &mut b], sec(1)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn members_of_a_node_that_says_goodbye_have_their_grace() {
    let (mut a, mut b, mut c) = (Node::new(1), Node::new(2), Node::new(3));
    let (channel, mut cursor) = c.watch("chat:a").await;
    let _members = (a.join("chat:a", "alice").await, a.join("chat:a", "bob").await);
    let room = a.hub.open(&name("chat:a")).await.unwrap();
    let _poll = a.roster.join(&room, &"polly".into(), None, Lease::Poll);
    converse(&mut [&mut a, &mut b, &mut c]);
    told(&channel, &mut cursor);
    for node in [&mut b, &mut c] {
        node.hear(a.id, &Word::bye());
    }
    pass(&mut [&mut b, &mut c], sec(2)).await;
    assert_eq!(c.list("chat:a"), ["alice×1", "bob×1", "polly×1"]);
    let _alice = b.join("chat:a", "alice").await;
    pass(&mut [&mut b, &mut c], sec(2)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update bob false"]);
    assert_eq!(c.list("chat:a"), ["alice×1", "polly×1"]);
    pass(&mut [&mut b, &mut c], sec(7)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update polly false"]);
    assert_eq!(b.list("chat:a"), ["alice×1"]);
}

#[tokio::test(start_paused = true)]
async fn a_hole_is_noticed_and_mended() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    let (channel, mut cursor) = b.watch("chat:a").await;
    let (alice, _bob) = (a.join("chat:a", "alice").await, a.join("chat:a", "bob").await);
    converse(&mut [&mut a, &mut b]);
    told(&channel, &mut cursor);
    // Lost: that alice goes and carol comes.
    drop(alice);
    let _carol = a.join("chat:a", "carol").await;
    tokio::time::sleep(sec(4)).await;
    a.roster.sweep();
    assert!(!a.changes().is_empty());
    assert!(b.questions().is_empty());
    // A later change shows the hole, and is not taken for all.
    let _dora = a.join("chat:a", "dora").await;
    for word in a.changes() {
        b.hear(a.id, &word);
    }
    assert_eq!(b.list("chat:a"), ["alice×1", "bob×1"]);
    converse(&mut [&mut a, &mut b]);
    pass(&mut [&mut a, &mut b], sec(1)).await;
    assert_eq!(b.list("chat:a"), ["bob×1", "carol×1", "dora×1"]);
    let told_of = told(&channel, &mut cursor);
    assert_eq!(
        told_of,
        ["presence_update carol true", "presence_update dora true", "presence_update alice false"]
    );
    // The last change of all is lost: a beat shows it.
    let _erin = a.join("chat:a", "erin").await;
    a.changes();
    pass(&mut [&mut a, &mut b], sec(1)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update erin true"]);
    // So many changes at once that they are not even known.
    let crowd: Vec<_> = futures_util::future::join_all((0..20_000).map(|n| {
        let a = &a;
        async move { a.join("chat:crowd", &format!("u{n}")).await }
    }))
    .await;
    let (entries, whole) = a.roster.take_untold();
    assert!(entries.len() < crowd.len() && !whole);
    a.number += 1;
    pass(&mut [&mut a, &mut b], sec(1)).await;
    assert_eq!(b.roster.list(&name("chat:crowd")).1, crowd.len());
}

#[tokio::test(start_paused = true)]
async fn what_is_said_during_an_answer_counts_after_it() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.limit = 7000;
    let mut members = BTreeMap::new();
    for n in 0..500 {
        let (channel, user) = (format!("chat:{}", n % 50), format!("u{n}"));
        members.insert(n, a.join(&channel, &user).await);
    }
    a.changes();
    b.hear(a.id, &a.beat());
    let (node, generation, question) = b.questions().pop().unwrap();
    let (mut question, mut parts, mut words) = (Some(question), 0, Vec::new());
    while let Some(asked) = question {
        let answer = a.answer(&asked);
        // While the answer is on its way some go, some come and some come back.
        for n in (parts * 7)..(parts * 7 + 7) {
            members.remove(&n);
            members.insert(1000 + n, a.join(&format!("chat:{}", n % 50), &format!("u{}", 1000 + n)).await);
            if n % 2 == 0 {
                members.insert(n, a.join(&format!("chat:{}", n % 50), &format!("u{n}")).await);
            }
        }
        tokio::time::sleep(sec(4)).await;
        a.roster.sweep();
        for word in a.changes() {
            // Some are heard before the answer is, the rest after all of it.
            if parts < 4 { b.hear(a.id, &word) } else { words.push(word) }
        }
        question = b.take(node, generation, &answer);
        parts += 1;
    }
    assert!(parts > 4, "{parts}");
    for word in &words {
        b.hear(a.id, word);
    }
    assert!(b.others.is_complete() && b.questions().is_empty());
    tokio::time::sleep(sec(1)).await;
    b.roster.sweep();
    for channel in 0..50 {
        let channel = format!("chat:{channel}");
        assert_eq!(a.list(&channel), b.list(&channel));
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_neither_made_nor_kept_for_members_elsewhere() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    let _alice = a.join("chat:a", "alice").await;
    converse(&mut [&mut a, &mut b]);
    assert_eq!(b.list("chat:a"), ["alice×1"]);
    assert!(b.hub.find(&name("chat:a")).is_none());
    let bob = b.join("chat:a", "bob").await;
    drop(bob);
    pass(&mut [&mut a, &mut b], sec(5)).await;
    // Out of memory once its history and its passing envelopes are over.
    tokio::time::sleep(Duration::from_hours(1)).await;
    b.hub.sweep(now());
    assert!(b.hub.find(&name("chat:a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn all_show_the_same_info() {
    let (mut a, mut b, mut c) = (Node::new(1), Node::new(2), Node::new(3));
    let join = async |node: &Node, info: &str| {
        let channel = node.hub.open(&name("chat:a")).await.unwrap();
        let info: Arc<RawValue> = RawValue::from_string(info.to_owned()).unwrap().into();
        node.roster.join(&channel, &"alice".into(), Some(&info), Lease::Stream)
    };
    let _members = (join(&b, "{\"n\": 2}").await, join(&c, "{\"n\": 3}").await);
    converse(&mut [&mut a, &mut b, &mut c]);
    for node in [&a, &b, &c] {
        let (users, _) = node.roster.list(&name("chat:a"));
        assert_eq!(users[0].info.as_ref().unwrap().get(), "{\"n\": 2}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_passed_over() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    let _alice = a.join("chat:a", "alice").await;
    converse(&mut [&mut a, &mut b]);
    for nothing in [
        "",
        "{}",
        "[]",
        "null",
        "\u{0}",
        "{\"v\":1}",
        "{\"v\":1,\"type\":\"later\",\"x\":[1]}",
        "{\"v\":2,\"type\":\"bye\"}",
        "{\"v\":1,\"type\":\"beat\",\"n\":-1}",
        "{\"v\":1,\"type\":7}",
    ] {
        assert!(Word::parse(nothing.as_bytes()).is_none(), "{nothing}");
        assert!(Members::parse(nothing.as_bytes()).is_none(), "{nothing}");
        assert!(Members::parse_question(nothing.as_bytes()).is_err(), "{nothing}");
        assert!(Keystroke::parse(nothing.as_bytes()).is_empty(), "{nothing}");
    }
    let long = "x".repeat(129);
    let word = format!(
        "{{\"v\":1,\"type\":\"changes\",\"n\":{},\"later\":{{}},\"members\":[{{\"c\":\"chat:b\",\"n\":1}},\
         {{\"u\":\"\",\"c\":\"chat:b\",\"n\":1}},{{\"u\":\"{long}\",\"c\":\"chat:b\",\"n\":1}},\
         {{\"c\":\"chat:b\",\"n\":1}},{{\"u\":\"bob\",\"c\":\"no channel\",\"n\":1}},\
         {{\"c\":\"chat:b\",\"n\":4294967295,\"g\":255,\"later\":1}},{{\"u\":\"eve\",\"c\":\"chat:c\"}}]}}",
        a.number + 1
    );
    b.hear(a.id, word.as_bytes());
    assert_eq!(b.list("chat:b"), ["bob×4294967295"]);
    let _bob = b.join("chat:b", "bob").await;
    assert_eq!(b.list("chat:b"), ["bob×4294967295"]);
    // A place that is not in the table, and a number that can't be.
    let strange =
        "{\"v\":1,\"type\":\"who\",\"next\":{\"shard\":18446744073709551615,\"channel\":\"\",\"user\":\"\"}}";
    assert!(Members::parse(&a.answer(strange.as_bytes())).is_some_and(|members| members.next.is_none()));
    b.hear(a.id, format!("{{\"v\":1,\"type\":\"beat\",\"n\":{}}}", u64::MAX).as_bytes());
    // Every word with a byte changed or cut short.
    let word = word.into_bytes();
    for index in 0..word.len() {
        for byte in [b'"', b'}', b'[', b'0', 0xff] {
            let mut word = word.clone();
            word[index] = byte;
            for bytes in [&word[..], &word[..index]] {
                if let Some(word) = Word::parse(bytes) {
                    let chore = b.others.hear(NodeId::new(9), word, now());
                    b.see_to(chore.as_ref());
                }
                Members::parse(bytes);
                Keystroke::parse(bytes);
            }
        }
    }
    b.roster.release(NodeId::new(9), None, Going::Now);
    // Answers without end.
    b.hear(NodeId::new(9), &Word::beat(1));
    let (node, generation, _) = b.questions().pop().unwrap();
    let on = "{\"v\":1,\"type\":\"members\",\"n\":1,\"next\":{\"shard\":0,\"channel\":\"a\",\"user\":\"b\"}}";
    let asked = (0..20_000).take_while(|_| b.take(node, generation, on.as_bytes()).is_some()).count();
    assert!(asked < 20_000);
    // Nodes without end.
    for number in 10..5000 {
        b.others.hear(NodeId::new(number), Word::Beat(1), now());
    }
    assert!(b.questions().len() <= 4);
}
