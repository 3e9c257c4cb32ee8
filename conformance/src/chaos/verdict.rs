//! The judgement: one history, told by all nodes alike, in which every acknowledged message stands once, where its
//! acknowledgement said, each publisher's in its order; and every client has read exactly that, from where it began.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::Client;
use super::publisher::{entry, message_id};
use super::records::split;
use super::report::Report;
use super::{ChaosError, Stage};
use crate::edges::{Edges, Node};
use crate::envelope::{self, Said};
use crate::ledger::Entry;
use crate::wire::{Connection, Request, WireError};

/// A message as a node tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    seq: u64,
    prev: u64,
    message_id: String,
    data: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    epoch: String,
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    more: bool,
}

#[derive(Deserialize)]
struct Data {
    p: u32,
    n: u32,
}

/// A channel's history at one node.
#[derive(Debug, PartialEq, Eq)]
struct History {
    epoch: String,
    messages: Vec<Told>,
}

/// Judges; what is wrong stands in the report.
pub(super) async fn judge(
    stage: &Stage,
    edges: &Edges,
    acknowledged: &[Vec<Entry>],
    clients: Vec<Client>,
    report: &mut Report,
) {
    let mut logs = Vec::new();
    for (channel, name) in stage.channels.iter().enumerate() {
        let log = match one_history(edges, name, report).await {
            Ok(history) => entries(name, &history, report),
            Err(error) => {
                report.violations.add(error.to_string());
                Vec::new()
            }
        };
        hold(name, &acknowledged[channel], &log, report);
        logs.push(log);
    }
    for client in clients {
        let index = client.index;
        report.sessions += client.sessions;
        report.moves += client.moves;
        for (channel, ledger) in stage.channels_of[index].iter().zip(client.records.ledgers()) {
            if ledger.joined_at().is_none() {
                report.violations.add(format!("client {index} never joined channel {channel}"));
            }
            report.faults += ledger.against(&logs[*channel]);
        }
        // One mistake of a node is seen by all of its clients.
        report.violations.add_some(client.records.violations, 2);
    }
}

/// The history of the first node, after the others were compared with it.
async fn one_history(edges: &Edges, channel: &str, report: &mut Report) -> Result<History, ChaosError> {
    let asked = |index: usize| {
        move |error| ChaosError::Asked { what: format!("history of {channel} at edge {index}"), error }
    };
    let first = history(&edges.nodes[0], channel).await.map_err(asked(0))?;
    for (index, node) in edges.nodes.iter().enumerate().skip(1) {
        let other = history(node, channel).await.map_err(asked(index))?;
        if other == first {
            continue;
        }
        let at = first.messages.iter().zip(&other.messages).position(|(one, other)| one != other);
        let at = at.unwrap_or(first.messages.len().min(other.messages.len()));
        report.violations.add(format!(
            "{channel} differs: edge 0 has {} messages of epoch {}, edge {index} {} of {}; from number {at} on {:?} \
             and {:?}",
            first.messages.len(),
            first.epoch,
            other.messages.len(),
            other.epoch,
            first.messages.get(at),
            other.messages.get(at),
        ));
    }
    Ok(first)
}

async fn history(node: &Node, channel: &str) -> Result<History, WireError> {
    let token = node.target.tokens.user("reads-all");
    let mut connection = Connection::open(&node.target).await?;
    let mut history = History { epoch: String::new(), messages: Vec::new() };
    loop {
        let after = history.messages.last().map_or(0, |last| last.seq);
        let path = format!("/v1/channels/{channel}/messages?after={after}&limit=1000");
        let response = connection.exchange(&Request::get(path).bearer(&token)).await?;
        response.expect_status(200)?;
        let page: Page<'_> = serde_json::from_slice(&response.body)
            .map_err(|error| WireError::Protocol(format!("a page of history: {error}")))?;
        history.epoch = page.epoch;
        for envelope in &page.messages {
            let Said::Message(message) = envelope::read(envelope.get().as_bytes())? else {
                return Err(WireError::Protocol(format!("in a page of history: {envelope}")));
            };
            history.messages.push(Told {
                seq: message.seq,
                prev: message.prev,
                message_id: message.message_id.into_owned(),
                data: message.data.get().to_owned(),
            });
        }
        if !page.more || page.messages.is_empty() {
            return Ok(history);
        }
    }
}

/// The history as ledgers know it; that each message names the one before it is held on the way.
fn entries(channel: &str, history: &History, report: &mut Report) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for told in &history.messages {
        let last = entries.last().map_or(told.prev, |last| last.seq);
        if told.prev != last || told.seq <= last {
            report.violations.add(format!("history of {channel}: after {last} comes {told:?}"));
        }
        match serde_json::from_str(&told.data) {
            Ok(Data { p, n }) if told.message_id == message_id(p, n) => entries.push(entry(p, n, told.seq)),
            _ => report.violations.add(format!("history of {channel}: nobody sent {told:?}")),
        }
    }
    entries
}

/// Holds the acknowledgements against the log.
fn hold(channel: &str, acknowledged: &[Entry], log: &[Entry], report: &mut Report) {
    let mut places = HashMap::new();
    let mut last_of: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in log {
        let (publisher, n) = split(*entry);
        if let Some(first) = places.insert(entry.n, entry.seq) {
            report.stored_twice += 1;
            report.violations.add(format!("{channel}: {publisher}-{n} stands at {first} and {}", entry.seq));
        } else if last_of.insert(publisher, n).unwrap_or(0) + 1 != n {
            report.violations.add(format!("{channel}: {publisher}-{n} stands out of its publisher's order"));
        }
    }
    for entry in acknowledged {
        match places.remove(&entry.n) {
            Some(seq) if seq == entry.seq => {}
            Some(seq) => {
                let (publisher, n) = split(*entry);
                report.violations.add(format!(
                    "{channel}: {publisher}-{n} was acknowledged at {} and stands at {seq}",
                    entry.seq
                ));
            }
            None => {
                report.stored_lost += 1;
                report
                    .violations
                    .add(format!("{channel}: {entry:?} was acknowledged and is not in the history"));
            }
        }
    }
    // What is left was stored and never acknowledged: only a publisher that gave up leaves that, and it says so.
    report.unacknowledged += places.len() as u64;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::{Mode, Plan};

    fn report() -> Report {
        Report::new(&Plan {
            seed: 1,
            duration: Duration::from_secs(1),
            mode: Mode::Chaos,
            edges: 2,
            nats: 1,
            clients: 1,
            channels: 1,
            rate: 1,
        })
    }

    fn held(acknowledged: &[Entry], log: &[Entry]) -> Report {
        let mut report = report();
        hold("c", acknowledged, log, &mut report);
        report
    }

    #[test]
    fn a_log_must_have_each_once_in_its_place_and_order() {
        let (a1, a2, b1) = (entry(1, 1, 3), entry(1, 2, 7), entry(2, 1, 5));
        assert_eq!(held(&[a1, a2, b1], &[a1, b1, a2]).violations.count, 0);
        let lost = held(&[a1, a2, b1], &[a1, a2]);
        assert_eq!((lost.stored_lost, lost.violations.count), (1, 1));
        let twice = held(&[a1, a2], &[a1, a2, entry(1, 2, 9)]);
        assert_eq!(twice.stored_twice, 1);
        // Its first place, as it was acknowledged, is no longer the one it is found at.
        assert!(twice.violations.count >= 1);
        assert_eq!(
            held(&[entry(1, 1, 7), entry(1, 2, 3)], &[entry(1, 2, 3), entry(1, 1, 7)]).violations.count,
            2
        );
        assert_eq!(held(&[entry(1, 1, 4)], &[a1]).violations.count, 1);
        assert_eq!(held(&[], &[a1]).unacknowledged, 1);
    }

    #[test]
    fn a_history_must_name_each_ones_predecessor() {
        let told = |seq, prev, id: &str, data: &str| Told {
            seq,
            prev,
            message_id: id.to_owned(),
            data: data.to_owned(),
        };
        let good = told(4, 0, "p1-1", r#"{"p":1,"n":1}"#);
        let history = |messages| History { epoch: "e".to_owned(), messages };
        let mut clean = report();
        let both = vec![good.clone(), told(9, 4, "p1-2", r#"{"p":1,"n":2}"#)];
        assert_eq!(entries("c", &history(both), &mut clean).len(), 2);
        assert_eq!(clean.violations.count, 0);
        for bad in [
            told(9, 5, "p1-2", r#"{"p":1,"n":2}"#),
            told(4, 4, "p1-2", r#"{"p":1,"n":2}"#),
            told(9, 4, "p1-3", r#"{"p":1,"n":2}"#),
            told(9, 4, "p1-2", "7"),
        ] {
            let mut report = report();
            entries("c", &history(vec![good.clone(), bad]), &mut report);
            assert!(report.violations.count > 0);
        }
    }
}
