//! Polls in a loop, each the same request but for the cursor of the last answer. A server may well know it again and do
//! less for it than for another; none of that shows. Each check asks so, and so that no server can: with a header that is
//! another one each time.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conformance::edge::Settings;
use conformance::polled::Polled;
use conformance::room::Room;
use conformance::wire::{Connection, Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(5);
/// Long enough for a request to be there, and to wait.
const MOMENT: Duration = Duration::from_millis(150);
/// Polls after which a server has had every chance to know the next one.
const HABIT: usize = 4;

fn both() -> [Settings; 2] {
    [Settings::profile(), Settings::profile().over_tls()]
}

/// A client that polls in a loop on one connection.
struct Loop {
    connection: Connection,
    /// The query but for the cursor.
    query: String,
    token: String,
    cursor: String,
    /// Sends the same each time.
    again: bool,
    asked: usize,
}

impl Loop {
    async fn open(room: &Room, more: &str, again: bool) -> Self {
        let mut connection = Connection::open(&room.edge.target).await.unwrap();
        let first = connection.exchange(&room.subscribe("/v1/poll", "")).await.unwrap();
        let cursor = Polled::of(&first).unwrap().cursor;
        let (query, token) = (format!("channels={}{more}", room.list()), room.token.clone());
        Self { connection, query, token, cursor, again, asked: 0 }
    }

    fn request(&mut self) -> Request {
        self.asked += 1;
        let path = format!("/v1/poll?cursor={}&{}", self.cursor, self.query);
        let request = Request::get(path).bearer(&self.token);
        if self.again { request } else { request.header("x-asked", self.asked.to_string()) }
    }

    async fn ask(&mut self) {
        let request = self.request();
        self.connection.send(&request).await.unwrap();
    }

    async fn answer(&mut self) -> Response {
        let response = timeout(3 * SOON, self.connection.response()).await.expect("an answer").unwrap();
        if response.head.status == 200 {
            self.cursor = Polled::of(&response).unwrap().cursor;
        }
        response
    }

    /// The answer to the next poll; while it waits that is published.
    async fn told(&mut self, room: &mut Room, data: &str) -> Polled {
        self.ask().await;
        sleep(MOMENT).await;
        room.publish(0, data).await.unwrap();
        Polled::of(&self.answer().await).unwrap()
    }

    async fn makes_a_habit_of_it(&mut self, room: &mut Room) {
        for n in 0..HABIT {
            let polled = self.told(room, &n.to_string()).await;
            assert_eq!(polled.envelopes.len(), 1, "{n}: {}", polled.raw);
        }
    }
}

/// All of an answer but its date.
fn undated(response: &Response) -> (u16, Vec<(String, String)>, String) {
    let mut headers = response.head.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (response.head.status, headers, String::from_utf8_lossy(&response.body).into_owned())
}

/// What comes at once, what comes late, nothing in time, typing of others, a large backlog in several answers: the same
/// bytes to who sends the same each time and to who does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_again_is_answered_as_any_other() {
    for settings in both() {
        let mut room = Room::alone(&settings.set("origins.allow", ["https://a.example"]), 2).await.unwrap();
        let typing = json!({"type": "typing_start", "payload": {"channel": room.channels[1]}});
        let large = json!("x".repeat(60_000)).to_string();
        for more in ["&wait=1", "&wait=1&presence=1&history=3"] {
            let mut polls = [Loop::open(&room, more, true).await, Loop::open(&room, more, false).await];
            polls[1].cursor = polls[0].cursor.clone();
            for round in 0..24 {
                match round % 6 {
                    0 => drop(room.publish(round % 2, "\"before\"").await.unwrap()),
                    1 => drop(room.send("typist", &typing).await.unwrap()),
                    5 if round == 11 => {
                        for n in 0..10 {
                            room.publish(n % 2, &large).await.unwrap();
                        }
                    }
                    _ => {}
                }
                for poll in &mut polls {
                    poll.ask().await;
                }
                sleep(MOMENT).await;
                match round % 6 {
                    2 => drop(room.publish(round % 2, "\"late\"").await.unwrap()),
                    3 => drop(room.send("typist", &typing).await.unwrap()),
                    _ => {}
                }
                let [one, two] = [polls[0].answer().await, polls[1].answer().await];
                assert_eq!(undated(&one), undated(&two), "{more}, {round}");
                let told = Polled::of(&one).unwrap().envelopes.len();
                assert_eq!(told > 0, round % 6 < 4 || (11..14).contains(&round), "{more}, {round}: {told}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_request_in_between_is_another_one() {
    for settings in both() {
        let mut room = Room::open(&settings, 2).await.unwrap();
        let mut poll = Loop::open(&room, "&wait=2", true).await;
        let old = poll.cursor.clone();
        let all = poll.query.clone();
        poll.makes_a_habit_of_it(&mut room).await;
        // An old cursor: all of it once more, and the same as before to who goes on with the new one.
        let new = std::mem::replace(&mut poll.cursor, old);
        poll.ask().await;
        assert_eq!(Polled::of(&poll.answer().await).unwrap().envelopes.len(), HABIT);
        assert_eq!(poll.cursor, new);
        poll.makes_a_habit_of_it(&mut room).await;
        // One channel less.
        poll.query = format!("channels={}&wait=2", room.channels[1]);
        poll.ask().await;
        sleep(MOMENT).await;
        room.publish(0, "\"not here\"").await.unwrap();
        room.publish(1, "\"here\"").await.unwrap();
        let polled = Polled::of(&poll.answer().await).unwrap();
        assert!(polled.envelopes.len() == 1 && polled.raw.contains("\"here\""), "{}", polled.raw);
        poll.query = all;
        poll.ask().await;
        assert!(poll.answer().await.json().unwrap()["messages"][0]["type"] == "room_joined");
        poll.makes_a_habit_of_it(&mut room).await;
        // A cursor that is none, and a place for it that wins.
        let cursor = std::mem::replace(&mut poll.cursor, "x".to_owned());
        poll.ask().await;
        assert_eq!(poll.answer().await.head.status, 400);
        poll.cursor = cursor;
        let request = poll.request().header("last-event-id", "nonsense");
        for _ in 0..3 {
            poll.connection.send(&request).await.unwrap();
            let polled = Polled::of(&poll.connection.response().await.unwrap()).unwrap();
            assert!(polled.raw.contains("\"gap\""), "{}", polled.raw);
        }
        poll.makes_a_habit_of_it(&mut room).await;
    }
}

/// What was lost between an answer and the next request is told of as to who comes from elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_between_two_polls_is_told() {
    for slow_consumer in ["gap", "close"] {
        let settings = Settings::profile()
            .set("channels.default.history_size", 2)
            .set("channels.default.slow_consumer", slow_consumer)
            .set("limits.write_timeout", "1s");
        let mut room = Room::alone(&settings, 2).await.unwrap();
        let mut polls = [Loop::open(&room, "", true).await, Loop::open(&room, "", false).await];
        polls[1].cursor = polls[0].cursor.clone();
        for n in 0..HABIT {
            for poll in &mut polls {
                poll.ask().await;
            }
            sleep(MOMENT).await;
            room.publish(0, &n.to_string()).await.unwrap();
            for poll in &mut polls {
                poll.answer().await;
            }
        }
        for n in 0..10 {
            room.publish(0, &n.to_string()).await.unwrap();
        }
        sleep(Duration::from_millis(1200)).await;
        room.publish(0, "10").await.unwrap();
        let mut answers = Vec::new();
        for poll in &mut polls {
            poll.ask().await;
            answers.push(undated(&poll.answer().await));
        }
        assert!(answers[0].2.contains(r#""reason":"expired""#), "{:?}", answers[0]);
        // But for the id of the gap's envelope.
        let [one, two] = [0, 1].map(|n: usize| answers[n].2.split(r#""reason":"expired""#).nth(1).unwrap());
        assert_eq!(one.split_once("}}").unwrap().1, two.split_once("}}").unwrap().1);
    }
}

/// RFC 9112 §9.3.2: what stands behind it in the same packet, or comes in several, is read as anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_come_in_pieces_and_with_others_behind_it() {
    for settings in both() {
        let mut room = Room::open(&settings, 1).await.unwrap();
        let authority = room.edge.target.authority();
        let mut poll = Loop::open(&room, "&wait=20", true).await;
        for pieces in [2, 7] {
            poll.makes_a_habit_of_it(&mut room).await;
            let bytes = poll.request().to_bytes(&authority);
            for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
                poll.connection.stream().write_all(piece).await.unwrap();
                poll.connection.stream().flush().await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            room.publish(0, "1").await.unwrap();
            assert_eq!(Polled::of(&poll.answer().await).unwrap().envelopes.len(), 1);
        }
        for behind in [false, true] {
            poll.makes_a_habit_of_it(&mut room).await;
            let first = poll.request().to_bytes(&authority);
            let second =
                room.get(&format!("/v1/channels/{}/presence", room.channels[0])).to_bytes(&authority);
            let third = poll.request().to_bytes(&authority);
            let stream = poll.connection.stream();
            if behind {
                stream.write_all(&first).await.unwrap();
                stream.flush().await.unwrap();
                sleep(MOMENT).await;
                stream.write_all(&[second, third].concat()).await.unwrap();
            } else {
                stream.write_all(&[first, second, third].concat()).await.unwrap();
            }
            stream.flush().await.unwrap();
            sleep(MOMENT).await;
            room.publish(0, "1").await.unwrap();
            let one = Polled::of(&poll.answer().await).unwrap();
            assert!(poll.answer_of_another().await["total"].is_u64(), "{behind}");
            let two = Polled::of(&poll.answer().await).unwrap();
            assert_eq!((&one.raw, &one.cursor), (&two.raw, &two.cursor), "{behind}");
        }
        // A body makes another head of it, and it is the last one.
        poll.makes_a_habit_of_it(&mut room).await;
        let body = poll.request().to_bytes(&authority);
        let framed = poll.request().header("content-length", body.len().to_string()).to_bytes(&authority);
        poll.connection.stream().write_all(&[framed, body].concat()).await.unwrap();
        poll.connection.stream().flush().await.unwrap();
        sleep(MOMENT).await;
        room.publish(0, "1").await.unwrap();
        assert_eq!(poll.answer().await.head.header("connection"), Some("close"));
        assert_eq!(poll.connection.stream().read(&mut [0; 64]).await.unwrap(), 0);
    }
}

impl Loop {
    async fn answer_of_another(&mut self) -> serde_json::Value {
        timeout(SOON, self.connection.response()).await.expect("an answer").unwrap().json().unwrap()
    }
}

/// A token is looked at again each time, and what it may is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_a_loop_is_good_no_longer_than_anywhere() {
    for again in [true, false] {
        let mut room = Room::alone(&Settings::profile(), 1).await.unwrap();
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = |name: &str, seconds| json!({"sub": name, "jti": name, "exp": now() + seconds, "channels": {"join": ["*"]}});
        room.token = room.edge.target.tokens.mint(&claims("short", 4));
        let mut poll = Loop::open(&room, "", again).await;
        poll.makes_a_habit_of_it(&mut room).await;
        // It ends the wait, and then it is over.
        poll.ask().await;
        assert_eq!(Polled::of(&poll.answer().await).unwrap().raw, "[]");
        poll.ask().await;
        assert_eq!(refusal(&poll.answer().await), (401, json!("authentication_failed")));
        for waits in [false, true] {
            let name = format!("taken-back-{waits}");
            poll.token = room.edge.target.tokens.mint(&claims(&name, 600));
            poll.makes_a_habit_of_it(&mut room).await;
            if waits {
                poll.ask().await;
                sleep(MOMENT).await;
            }
            let mut admin = Connection::open(room.edge.admin.as_ref().unwrap()).await.unwrap();
            let revoke = Request::post("/revocations", &json!({"jti": name, "seconds": 600}));
            assert!((200..300).contains(&admin.exchange(&revoke).await.unwrap().head.status));
            for _ in 0..2 {
                if !waits {
                    poll.ask().await;
                }
                assert_eq!(refusal(&poll.answer().await), (401, json!("revoked")), "{waits}");
                if waits {
                    poll.ask().await;
                }
            }
            if waits {
                assert_eq!(refusal(&poll.answer().await), (401, json!("revoked")));
            }
        }
        // Another one, which may not be here, is no habit.
        poll.token = room.edge.target.tokens.user("reader");
        poll.makes_a_habit_of_it(&mut room).await;
        let nothing = json!({"sub": "nobody", "exp": now() + 600, "channels": {"join": ["none:*"]}});
        let inbox = "user:reader";
        poll.query = format!("channels={inbox}");
        poll.token = room.edge.target.tokens.mint(&nothing);
        poll.ask().await;
        assert_eq!(poll.answer().await.head.status, 403);
    }
}

fn refusal(response: &Response) -> (u16, serde_json::Value) {
    (response.head.status, response.json().unwrap()["reason"].clone())
}

/// Requests count on their user's quota, whatever they are known by; who waits as told goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_has_the_quota_of_its_user() {
    let settings = Settings::profile().set("quota.requests_per_connection_per_minute", 60);
    for settings in [settings.clone(), settings.over_tls()] {
        let mut room = Room::alone(&settings, 1).await.unwrap();
        for again in [true, false] {
            room.token = room.edge.target.tokens.user(&format!("again-{again}"));
            let mut poll = Loop::open(&room, "&wait=0", again).await;
            let begun = Instant::now();
            let mut good = 1;
            let refused = loop {
                poll.ask().await;
                let response = poll.answer().await;
                if response.head.status != 200 {
                    break response;
                }
                good += 1;
                assert!(good < 200, "{again}: nothing is refused");
            };
            // One comes back each second.
            let most = 61 + begun.elapsed().as_secs();
            assert!((60..=most).contains(&good), "{again}: {good}");
            assert_eq!(refusal(&refused), (429, json!("rate_limited")));
            assert_eq!(refused.json().unwrap()["limit"], "quota.requests_per_connection_per_minute");
            let wait = refused.json().unwrap()["retry_after_ms"].as_u64().unwrap();
            assert!((1..=1000).contains(&wait), "{wait}");
            sleep(Duration::from_millis(wait)).await;
            for status in [200, 429] {
                poll.ask().await;
                assert_eq!(poll.answer().await.head.status, status, "{again}");
            }
            sleep(Duration::from_secs(2)).await;
            room.publish(0, "1").await.unwrap();
            poll.ask().await;
            assert_eq!(Polled::of(&poll.answer().await).unwrap().envelopes.len(), 1);
        }
    }
}

/// Who polls is there; who stops is for 10 s more, whether its connection stays or not. Nobody is told of what happens
/// between two polls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_polling_is_there_for_ten_seconds_more() {
    let mut ends = tokio::task::JoinSet::new();
    for (name, again, stays) in
        [("a", true, true), ("b", true, false), ("c", false, true), ("d", false, false)]
    {
        let mut own = Room::alone(&Settings::profile(), 1).await.unwrap();
        own.token = own.edge.target.tokens.user(name);
        ends.spawn(async move {
            let mut poll = Loop::open(&own, "", again).await;
            let present = own.get(&format!("/v1/channels/{}/presence", own.channels[0]));
            let mut watcher = Connection::open(&own.edge.target).await.unwrap();
            let mut is_there = async || {
                let state = watcher.exchange(&present).await.unwrap().json().unwrap();
                let users = state["users"].as_array().unwrap();
                users.iter().any(|user| user["user_id"] == name && user["connections"] == 1)
            };
            for _ in 0..3 {
                poll.makes_a_habit_of_it(&mut own).await;
                assert!(is_there().await, "{name}");
                sleep(Duration::from_secs(1)).await;
            }
            poll.told(&mut own, "\"last\"").await;
            let last = Instant::now();
            let kept = stays.then_some(poll);
            while is_there().await {
                assert!(last.elapsed() < Duration::from_secs(12), "{name} is still there");
                sleep(Duration::from_millis(100)).await;
            }
            let took = last.elapsed();
            assert!((9_900..11_000).contains(&took.as_millis()), "{name} was there for {took:?}");
            drop(kept);
        });
    }
    while let Some(end) = ends.join_next().await {
        end.unwrap();
    }
}

/// It is told in the answer that is due; who is between two polls is closed at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_a_loop() {
    for settings in both() {
        let mut room = Room::alone(&settings.set("listen.drain", "4s"), 1).await.unwrap();
        let mut waits = Loop::open(&room, "&wait=60", true).await;
        waits.makes_a_habit_of_it(&mut room).await;
        let mut rests = Loop::open(&room, "&wait=60", true).await;
        rests.makes_a_habit_of_it(&mut room).await;
        waits.ask().await;
        Polled::of(&waits.answer().await).unwrap();
        waits.ask().await;
        sleep(MOMENT).await;
        let begun = Instant::now();
        room.edge.begin_drain().unwrap();
        let last = waits.answer().await;
        assert_eq!(Polled::of(&last).unwrap().raw, "[]");
        assert_eq!(last.head.header("connection"), Some("close"));
        for poll in [&mut waits, &mut rests] {
            let read = timeout(SOON, poll.connection.stream().read(&mut [0; 64])).await;
            assert_eq!(read.expect("it ends").unwrap(), 0);
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

/// Each poll of a loop is counted, and counts as being served while it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_of_a_loop_are_counted() {
    for again in [true, false] {
        let mut room = Room::alone(&Settings::profile(), 1).await.unwrap();
        let mut poll = Loop::open(&room, "", again).await;
        let names = ["tidegate_connections_opened_total", "tidegate_messages_sent_total"];
        let names = names.map(|name| format!("{name}{{transport=\"poll\"}}"));
        let active = "tidegate_connections_active{transport=\"poll\"}";
        for _ in 0..3 {
            let [opened, sent] =
                [room.metric(&names[0]).await.unwrap(), room.metric(&names[1]).await.unwrap()];
            poll.makes_a_habit_of_it(&mut room).await;
            let polls = f64::from(u32::try_from(HABIT).unwrap());
            room.metric_becomes(&names[0], opened + polls).await.unwrap();
            room.metric_becomes(&names[1], sent + polls).await.unwrap();
            room.metric_becomes(active, 0.0).await.unwrap();
            poll.ask().await;
            room.metric_becomes(active, 1.0).await.unwrap();
            room.publish(0, "1").await.unwrap();
            poll.answer().await;
            room.metric_becomes(active, 0.0).await.unwrap();
        }
    }
}
