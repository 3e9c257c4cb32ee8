//! Who is there when everything is over: every node must name exactly the users whose clients are connected, with as
//! many connections, and whoever watched must have been told of each that left. A name too many is a ghost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Plan, Stage};
use crate::edges::{Edges, Node};
use crate::switching::Violations;
use crate::traffic;
use crate::wire::{Connection, Dial, Request, WebSocket, WireError};

/// How long the last who left may be named: polls count for ten seconds behind the last one, users for three behind
/// their last connection, and nodes tell each other every second or so.
const SETTLE: Duration = Duration::from_secs(30);
/// How long the lists of all nodes are asked for, at most, and how often.
const ASK: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);
/// A connection joins so many channels at most (`limits.channels_per_connection`).
const CHANNELS: usize = 120;

/// Users by channel, with their connections.
type Present = BTreeMap<String, BTreeMap<String, u32>>;

/// Somebody who watches from one node.
struct Watcher {
    socket: WebSocket,
    view: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    payload: Value,
}

#[derive(Deserialize)]
struct User {
    user_id: String,
    connections: u32,
}

/// Lets half of the clients leave, and looks who is there. What is wrong, in words.
pub(super) async fn look(
    stage: &Stage,
    edges: &Edges,
    plan: &Plan,
    leave: impl FnOnce() -> super::Phase,
) -> Violations {
    let mut violations = Violations::default();
    let channels = &stage.channels[..plan.channels.min(CHANNELS)];
    let mut watchers = Vec::new();
    for (index, node) in edges.nodes.iter().enumerate() {
        match Watcher::open(node, index, channels).await {
            Ok(watcher) => watchers.push(watcher),
            Err(error) => violations.add(format!("a watcher at edge {index}: {error}")),
        }
    }
    leave();
    let wanted = who_is_there(stage, channels, watchers.len());
    let deadline = Instant::now() + SETTLE;
    loop {
        for watcher in &mut watchers {
            if let Err(error) = watcher.hear(AGAIN).await {
                violations.add(format!("a watcher, while nothing happens: {error}"));
                return violations;
            }
        }
        let found = compare(edges, channels, &wanted, &watchers).await;
        if found.count == 0 || Instant::now() > deadline {
            violations.add_all(found);
            return violations;
        }
        sleep(AGAIN).await;
    }
}

/// The clients that stay, and the watchers themselves.
fn who_is_there(stage: &Stage, channels: &[String], watchers: usize) -> Present {
    let mut present = Present::new();
    for (channel, name) in channels.iter().enumerate() {
        let users = present.entry(name.clone()).or_default();
        users.extend((0..watchers).map(|index| (watcher(index), 1)));
        let clients = stage.channels_of.iter().enumerate();
        for (client, _) in clients.filter(|(client, of)| super::stays(*client) && of.contains(&channel)) {
            *users.entry(stage.user(client)).or_default() += 1;
        }
    }
    present
}

async fn compare(edges: &Edges, channels: &[String], wanted: &Present, watchers: &[Watcher]) -> Violations {
    let mut violations = Violations::default();
    for (index, node) in edges.nodes.iter().enumerate() {
        match timeout(ASK, presence_of(node, channels)).await.unwrap_or(Err(WireError::Timeout)) {
            Ok(found) => differences(&format!("edge {index}"), wanted, &found, &mut violations),
            Err(error) => violations.add(format!("presence at edge {index}: {error}")),
        }
    }
    for (index, watcher) in watchers.iter().enumerate() {
        // Whoever is told of users is not told of their connections.
        let seen = |channel: &String| {
            let users = watcher.view[channel].iter();
            users.map(|user| (user.clone(), wanted[channel].get(user).copied().unwrap_or(0))).collect()
        };
        let seen = wanted.keys().map(|channel| (channel.clone(), seen(channel))).collect();
        differences(&format!("who watches at edge {index}"), wanted, &seen, &mut violations);
    }
    violations
}

/// One line a node for each way to be wrong, with some examples.
fn differences(whose: &str, wanted: &Present, found: &Present, violations: &mut Violations) {
    let (mut ghosts, mut missing, mut miscounted) = (Vec::new(), Vec::new(), Vec::new());
    for (channel, wanted) in wanted {
        let found = &found[channel];
        let gone = found.keys().filter(|user| !wanted.contains_key(*user));
        ghosts.extend(gone.map(|user| format!("{user} in {channel}")));
        for (user, connections) in wanted {
            match found.get(user) {
                None => missing.push(format!("{user} in {channel}")),
                Some(other) if other != connections => {
                    miscounted.push(format!("{user} in {channel}, {other} times and not {connections}"));
                }
                Some(_) => {}
            }
        }
    }
    for (what, names) in [
        ("names who is gone", ghosts),
        ("does not name who is there", missing),
        ("counts connections wrong", miscounted),
    ] {
        if !names.is_empty() {
            let some = &names[..names.len().min(5)];
            violations.add(format!("{whose} {what}, {} times: {some:?}", names.len()));
        }
    }
}

async fn presence_of(node: &Node, channels: &[String]) -> Result<Present, WireError> {
    let token = node.target.tokens.user("looks-on");
    let mut connection = Connection::open(&node.target).await?;
    let mut present = Present::new();
    for channel in channels {
        let request = Request::get(format!("/v1/channels/{channel}/presence")).bearer(&token);
        let response = connection.exchange(&request).await?;
        response.expect_status(200)?;
        let users: Vec<User> = part(&response.json()?, "users")?;
        let users = users.into_iter().map(|user| (user.user_id, user.connections)).collect();
        present.insert(channel.clone(), users);
    }
    Ok(present)
}

impl Watcher {
    async fn open(node: &Node, index: usize, channels: &[String]) -> Result<Self, WireError> {
        let token = node.target.tokens.user(&watcher(index));
        let mut socket = WebSocket::open(&node.target, Dial::default(), "/v1/ws", &token).await?;
        for channel in channels {
            let join = json!({"type": "join_room", "payload": {"channel": channel, "presence": true}});
            socket.send(&join.to_string()).await?;
        }
        let mut watcher = Self { socket, view: BTreeMap::new() };
        let deadline = Instant::now() + ASK;
        while watcher.view.len() < channels.len() {
            if Instant::now() > deadline {
                return Err(WireError::Timeout);
            }
            watcher.hear(AGAIN).await?;
        }
        Ok(watcher)
    }

    /// Takes note of all that comes until nothing does for a while.
    async fn hear(&mut self, quiet: Duration) -> Result<(), WireError> {
        while let Ok(text) = timeout(quiet, self.socket.text()).await {
            let text = text?;
            let said: Said = serde_json::from_slice(&text)
                .map_err(|error| WireError::Protocol(format!("an envelope with {error}")))?;
            traffic::said(&said.kind, &text);
            self.note(&said)?;
        }
        Ok(())
    }

    fn note(&mut self, said: &Said) -> Result<(), WireError> {
        let list = match said.kind.as_str() {
            "room_joined" => "presence",
            "presence_state" => "users",
            "presence_update" => {
                let channel: String = part(&said.payload, "channel")?;
                let user: String = part(&said.payload, "user_id")?;
                let Some(view) = self.view.get_mut(&channel) else {
                    return Err(WireError::Protocol(format!("an update of {channel} before its list")));
                };
                if part(&said.payload, "online")? {
                    view.insert(user)
                } else {
                    view.remove(&user)
                };
                return Ok(());
            }
            _ => return Ok(()),
        };
        let users: Vec<User> = part(&said.payload, list)?;
        let users = users.into_iter().map(|user| user.user_id).collect();
        self.view.insert(part(&said.payload, "channel")?, users);
        Ok(())
    }
}

fn watcher(index: usize) -> String {
    format!("watcher-{index}")
}

fn part<T: for<'a> Deserialize<'a>>(payload: &Value, name: &str) -> Result<T, WireError> {
    let value = payload.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value)
        .map_err(|error| WireError::Protocol(format!("{name} in {payload}: {error}")))
}
