//! Two clients and a node: lines of envelopes, served as on a WebSocket, with everything that becomes deliverable read
//! after each. Every answer is one line of JSON under the request's `correlation_id`; every message comes in order and
//! names the one before it, unless a `gap` was told; every cursor names where its reader stands.
//!
//! Input: lines, each `a` or `b` for who speaks and an envelope; `$C`, `$E` and `$S` in it are the newest cursor, epoch
//! and `seq` that anybody was told, which no input could guess.

#![no_main]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate::auth::Identity;
use tidegate::channel::ChannelName;
use tidegate::envelope::{self, encode_error};
use tidegate::metrics::Transport;
use tidegate::transport::{Caller, CursorString, Subscriptions};
use tidegate_fuzz::node;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// Reads that a channel of a few messages can keep busy; beyond it something is given again and again.
const READS_MAX: usize = 1000;

/// Never run: a publication is given a time limit, which wants a clock to be there.
static CLOCK: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a clock is made"));

fuzz_target!(|input: &[u8]| {
    let _clock = CLOCK.enter();
    let edge = Arc::new(node::node(node::open_to_everyone()));
    let client = |number| Client {
        caller: Caller {
            edge: Arc::clone(&edge),
            who: Arc::new(Identity::guest_of_connection()),
            client_id: Uuid::from_u128(number),
            transport: Transport::WebSocket,
        },
        subscriptions: Subscriptions::new(),
        last: HashMap::new(),
    };
    let mut clients = [client(1), client(2)];
    let mut told = Told::default();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let (speaker, text) = match line {
            [b'a', text @ ..] => (0, text),
            [b'b', text @ ..] => (1, text),
            _ => continue,
        };
        clients[speaker].says(&told.filled_in(text), &mut told);
        for client in &mut clients {
            client.reads(&mut told);
        }
    }
    // Who has been told of a channel holds it, until it has come to it.
    for _ in 0..64 {
        assert!(edge.hub.ringer().run().now_or_never().is_none());
    }
});

struct Client {
    caller: Caller,
    subscriptions: Subscriptions,
    /// The `seq` that the next message of a channel must name as the one before it; `None` after a gap.
    last: HashMap<String, Option<u64>>,
}

impl Client {
    fn says(&mut self, text: &[u8], told: &mut Told) {
        let incoming = match envelope::parse(text) {
            Ok(incoming) => incoming,
            Err(rejected) => {
                read(&encode_error(&rejected.fault, rejected.correlation_id.as_deref()));
                return;
            }
        };
        let id = incoming.correlation_id.clone();
        let served = self.caller.serve(incoming, Some(&mut self.subscriptions), true);
        let answer = match served.now_or_never().expect("the embedded bus never waits") {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(fault) => encode_error(&fault, id.as_deref()),
        };
        let answer = read(&answer);
        assert_eq!(answer["metadata"]["correlation_id"].as_str(), id.as_deref());
        told.hear(&answer);
        let payload = &answer["payload"];
        let channel = payload["channel"].as_str().unwrap_or_default();
        match answer["type"].as_str() {
            Some("room_joined") => {
                self.last.insert(channel.to_owned(), payload["seq"].as_u64());
                let cursor = payload["cursor"].as_str().expect("a cursor");
                assert_eq!(cursor, self.subscriptions.cursor_string(None));
            }
            Some("room_left") => drop(self.last.remove(channel)),
            Some("history_page") => history(&payload["messages"]),
            _ => {}
        }
    }

    fn reads(&mut self, told: &mut Told) {
        let Self { caller, subscriptions, last } = self;
        for _ in 0..READS_MAX {
            let more = subscriptions.read(&caller.edge, &caller.who.user_id, 4096, |event, moment| {
                let envelope = read(event.json());
                let payload = &envelope["payload"];
                let channel = payload["channel"].as_str().expect("an event is of a channel");
                let last = last.get_mut(channel).expect("of one that is joined");
                let seq = payload["seq"].as_u64();
                let moves = match envelope["type"].as_str().expect("a type") {
                    "message" => {
                        assert!(
                            last.is_none() || payload["prev"].as_u64() == *last,
                            "after {last:?}: {envelope}"
                        );
                        assert!(seq > payload["prev"].as_u64(), "{envelope}");
                        *last = seq;
                        true
                    }
                    "gap" => {
                        *last = None;
                        true
                    }
                    _ => false,
                };
                let cursor = moment.with_cursor(|cursor| String::from_utf8_lossy(cursor).into_owned());
                let parsed = CursorString::parse(&cursor).expect("a cursor of an edge");
                let name: ChannelName = channel.parse().expect("a name");
                let place = parsed.place(&name).expect("a place in each channel");
                assert!(!moves || last.is_none() || Some(place.position.seq) == seq, "{place:?}: {envelope}");
                told.hear(&envelope);
                if moves {
                    told.cursor = cursor;
                }
            });
            if !more.expect("no channel here closes for slowness") {
                return;
            }
        }
        panic!("reads that never end");
    }
}

fn history(messages: &Value) {
    let mut last = 0;
    for message in messages.as_array().expect("an array") {
        let seq = message["payload"]["seq"].as_u64().expect("a seq");
        assert!(seq > last, "{messages}");
        last = seq;
    }
}

/// The newest of what a client would remember.
#[derive(Default)]
struct Told {
    cursor: String,
    epoch: String,
    seq: u64,
}

impl Told {
    fn hear(&mut self, envelope: &Value) {
        let payload = &envelope["payload"];
        for (kept, name) in [(&mut self.cursor, "cursor"), (&mut self.epoch, "epoch")] {
            if let Some(text) = payload[name].as_str() {
                text.clone_into(kept);
            }
        }
        self.seq = payload["seq"].as_u64().unwrap_or(self.seq);
    }

    fn filled_in(&self, text: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(text) {
            Ok(text) => {
                let text = text.replace("$C", &self.cursor).replace("$E", &self.epoch);
                text.replace("$S", &self.seq.to_string()).into_bytes()
            }
            Err(_) => text.to_vec(),
        }
    }
}

/// WHATWG HTML §9.2.6: a line break would end an event's `data`.
fn read(json: &[u8]) -> Value {
    assert!(!json.contains(&b'\n') && !json.contains(&b'\r'), "{}", String::from_utf8_lossy(json));
    serde_json::from_slice(json).expect("what an edge says is JSON")
}
