//! Channels as subjects. A channel has one subject, by which it is published and stored, and one on which it comes back
//! to the nodes that want it; both can be told from the channel's name alone, by every node and every backend.

use std::borrow::Cow;

use crate::channel::ChannelName;
use crate::config::{Bus as Settings, Channels};

/// Groups that channels without a subject of their own are put into, so that a node with very many channels has at most
/// as many subscriptions.
pub(super) const BUCKETS: u32 = 1024;

/// How channels are written as subjects.
#[derive(Debug)]
pub(super) struct Subjects {
    prefix: String,
    streams: usize,
    /// Namespaces with a subject of their own: name, and what stands before and behind the channel.
    own: Vec<(String, String, String)>,
}

/// Where a channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The subject it is published and stored by.
    pub(super) subject: String,
    /// Which stream stores it.
    pub(super) shard: usize,
    /// Which others it can be subscribed to with.
    pub(super) group: Group,
}

/// Channels that one subscription can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// Those whose names have the same hash.
    Bucket(u32),
    /// Those of a namespace that has a subject of its own, by its index.
    Namespace(usize),
}

impl Subjects {
    pub(super) fn new(settings: &Settings, channels: &Channels) -> Self {
        let own = channels.namespaces.iter().filter_map(|(name, namespace)| {
            let (head, tail) = namespace.subject.as_deref()?.split_once('*')?;
            Some((name.clone(), head.to_owned(), tail.to_owned()))
        });
        Self { prefix: settings.prefix.clone(), streams: settings.streams, own: own.collect() }
    }

    pub(super) fn of(&self, channel: &ChannelName) -> Place {
        let own = channel.namespace().and_then(|name| self.own.iter().position(|own| own.0 == name));
        if let Some(index) = own {
            let (name, head, tail) = &self.own[index];
            let rest = &channel.as_str()[name.len() + 1..];
            let subject = format!("{head}{}{tail}", token(rest));
            return Place { subject, shard: 0, group: Group::Namespace(index) };
        }
        let bucket = crc32fast::hash(channel.as_str().as_bytes()) % BUCKETS;
        let shard = self.shard(bucket);
        let subject = format!("{}.pub.{shard}.{bucket}.{}", self.prefix, token(channel.as_str()));
        Place { subject, shard, group: Group::Bucket(bucket) }
    }

    /// The name of the channel that is published by that subject; `None` if it could be no channel's.
    pub(super) fn channel<'a>(&self, subject: &'a str) -> Option<Cow<'a, str>> {
        let mine = subject.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix(".pub."));
        if let Some(rest) = mine {
            // Shard and bucket.
            return rest.splitn(3, '.').nth(2).map(name);
        }
        self.own.iter().find_map(|(namespace, head, tail)| {
            let rest = subject.strip_prefix(&**head)?.strip_suffix(&**tail)?;
            (!rest.contains('.')).then(|| Cow::Owned(format!("{namespace}:{}", name(rest))))
        })
    }

    /// Where a message on that subject comes back.
    pub(super) fn back(&self, subject: &str) -> String {
        format!("{}.out.{subject}", self.prefix)
    }

    /// The subject that a message which comes back was published by.
    pub(super) fn published<'a>(&self, back: &'a str) -> Option<&'a str> {
        back.strip_prefix(&*self.prefix)?.strip_prefix(".out.")
    }

    /// Where all messages of a group come back.
    pub(super) fn back_of(&self, group: Group) -> String {
        match group {
            Group::Bucket(bucket) => {
                self.back(&format!("{}.pub.{}.{bucket}.*", self.prefix, self.shard(bucket)))
            }
            Group::Namespace(index) => {
                let (_, head, tail) = &self.own[index];
                self.back(&format!("{head}*{tail}"))
            }
        }
    }

    /// Where all messages come back.
    pub(super) fn back_of_all(&self) -> String {
        format!("{}.out.>", self.prefix)
    }

    /// What a stream stores.
    pub(super) fn of_stream(&self, shard: usize) -> Vec<String> {
        let mut subjects = vec![format!("{}.pub.{shard}.>", self.prefix)];
        if shard == 0 {
            subjects.extend(self.own.iter().map(|(_, head, tail)| format!("{head}*{tail}")));
        }
        subjects
    }

    fn shard(&self, bucket: u32) -> usize {
        usize::try_from(bucket).expect("a bucket is small") % self.streams
    }
}

/// Of all that a channel's name may hold, only the dot means something to NATS; an empty token is none.
fn token(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        Cow::Borrowed("%")
    } else if name.contains('.') {
        Cow::Owned(name.replace('.', "%2E"))
    } else {
        Cow::Borrowed(name)
    }
}

fn name(token: &str) -> Cow<'_, str> {
    if token == "%" {
        Cow::Borrowed("")
    } else if token.contains('%') {
        Cow::Owned(token.replace("%2E", "."))
    } else {
        Cow::Borrowed(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;

    fn subjects(streams: usize) -> Subjects {
        let mut channels = Channels::default();
        let orders = Namespace { subject: Some("shop.orders.*".to_owned()), ..Namespace::default() };
        channels.namespaces.insert("orders".to_owned(), orders);
        Subjects::new(&Settings { streams, ..Settings::default() }, &channels)
    }

    #[test]
    fn every_channel_has_one_subject_and_is_found_by_it() {
        for streams in [1, 4] {
            let subjects = subjects(streams);
            for text in
                ["lobby", "chat:a.b..c", ".", "orders:17", "orders:a.b", "orders:", "orders", "a:b@=/!-_"]
            {
                let channel: ChannelName = text.parse().unwrap();
                let place = subjects.of(&channel);
                assert!(place.subject.split('.').all(|token| !token.is_empty()), "{place:?}");
                assert_eq!(subjects.channel(&place.subject).as_deref(), Some(text));
                assert_eq!(subjects.published(&subjects.back(&place.subject)), Some(&*place.subject));
                let wildcard = subjects.back_of(place.group).replace('*', "");
                assert!(subjects.back(&place.subject).starts_with(&wildcard), "{place:?}");
                let stored = subjects.of_stream(place.shard);
                assert!(stored.iter().any(|all| place.subject.starts_with(all.trim_end_matches(['*', '>']))));
            }
        }
    }

    #[test]
    fn subjects_are_as_documented() {
        let of = |channel: &str| subjects(1).of(&channel.parse().unwrap()).subject;
        assert_eq!(of("orders:17"), "shop.orders.17");
        let bucket = crc32fast::hash(b"chat:v1.2") % 1024;
        assert_eq!(of("chat:v1.2"), format!("tidegate.pub.0.{bucket}.chat:v1%2E2"));
    }

    #[test]
    fn what_is_no_channels_subject_is_none() {
        let subjects = subjects(1);
        for subject in ["", "tidegate.pub.0.7", "shop.orders.a.b", "other.thing"] {
            assert_eq!(subjects.channel(subject), None, "{subject}");
        }
    }
}
