//! Which subjects this node is subscribed to: each channel that is wanted by its own subject and, where very many of a
//! group are, the whole group at once. One subscription costs some 5 KB and a task, a wanted channel under a group's
//! subscription a hundred bytes, but then the node also gets what it does not want of that group.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::{Client, Message};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tracing::warn;

use super::subject::{Group, Place, Subjects};
use super::tasks::Tasks;

/// Channels of a bucket that have subscriptions of their own; with more it is one for the bucket. 1,024 buckets: the
/// most are 8,192 subscriptions.
const SINGLES_OF_BUCKET: usize = 8;
/// The same for a namespace with a subject of its own.
const SINGLES_OF_NAMESPACE: usize = 1024;

/// The subscriptions. Each runs in a task of its own, which gives what comes to `deliver`.
pub(super) struct Interest<D> {
    client: Client,
    tasks: Tasks,
    deliver: Arc<D>,
    groups: Mutex<HashMap<Group, Wanted>>,
}

/// What is wanted of one group.
#[derive(Default)]
struct Wanted {
    whole: Option<Subscription>,
    /// By the subject it is published by; none of its own where the whole group is subscribed to.
    channels: HashMap<Box<str>, Option<Subscription>>,
}

/// One subscription; dropping it ends it, and what has arrived by then is still delivered.
struct Subscription {
    _over: oneshot::Sender<()>,
    ready: watch::Receiver<bool>,
}

impl<D: Fn(&Message) + Send + Sync + 'static> Interest<D> {
    pub(super) fn new(client: Client, tasks: Tasks, deliver: D) -> Self {
        Self { client, tasks, deliver: Arc::new(deliver), groups: Mutex::default() }
    }

    /// From now on that channel's messages are delivered. When this returns the subscription is on its way to the server,
    /// before whatever is sent there next.
    pub(super) async fn add(&self, place: &Place, subjects: &Subjects) {
        let mut ready = self.begin(place, subjects);
        // The task lives until it is ready, or the connection has ended for good.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// That channel is no longer wanted.
    pub(super) fn remove(&self, place: &Place) {
        let mut groups = self.groups.lock();
        let Some(wanted) = groups.get_mut(&place.group) else { return };
        wanted.channels.remove(&*place.subject);
        if wanted.channels.is_empty() {
            groups.remove(&place.group);
        } else if wanted.channels.capacity() > 4 * wanted.channels.len() + 16 {
            wanted.channels.shrink_to_fit();
        }
    }

    /// Channels that are wanted, and subscriptions for them.
    pub(super) fn len(&self) -> (usize, usize) {
        self.groups.lock().values().fold((0, 0), |(channels, subscriptions), wanted| {
            let own = wanted.channels.values().flatten().count();
            (channels + wanted.channels.len(), subscriptions + own + usize::from(wanted.whole.is_some()))
        })
    }

    fn begin(&self, place: &Place, subjects: &Subjects) -> watch::Receiver<bool> {
        let mut groups = self.groups.lock();
        let wanted = groups.entry(place.group).or_default();
        if let Some(whole) = &wanted.whole {
            let ready = whole.ready.clone();
            wanted.channels.insert(place.subject.as_str().into(), None);
            return ready;
        }
        if let Some(Some(single)) = wanted.channels.get(&*place.subject) {
            return single.ready.clone();
        }
        let most = match place.group {
            Group::Bucket(_) => SINGLES_OF_BUCKET,
            Group::Namespace(_) => SINGLES_OF_NAMESPACE,
        };
        if wanted.channels.len() < most {
            let single = self.subscribe(subjects.back(&place.subject), Vec::new());
            let ready = single.ready.clone();
            wanted.channels.insert(place.subject.as_str().into(), Some(single));
            return ready;
        }
        // Ended once the one for all is there: until then some messages come twice, which does no harm.
        let singles = wanted.channels.values_mut().filter_map(Option::take).collect();
        let whole = self.subscribe(subjects.back_of(place.group), singles);
        let ready = whole.ready.clone();
        wanted.whole = Some(whole);
        wanted.channels.insert(place.subject.as_str().into(), None);
        ready
    }

    fn subscribe(&self, subject: String, instead_of: Vec<Subscription>) -> Subscription {
        let (tell, ready) = watch::channel(false);
        let (over, mut is_over) = oneshot::channel();
        let (client, deliver) = (self.client.clone(), Arc::clone(&self.deliver));
        drop(self.tasks.spawn(async move {
            let mut messages = match client.subscribe(subject).await {
                Ok(messages) => messages,
                Err(error) => return warn!(%error, "no subscription"),
            };
            tell.send_replace(true);
            drop(instead_of);
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    _ = &mut is_over => break,
                };
                let Some(message) = message else { return };
                deliver(&message);
            }
            // Another subscription may have taken over after the server had sent these.
            if messages.drain().await.is_ok() {
                while let Some(message) = messages.next().await {
                    deliver(&message);
                }
            }
        }));
        Subscription { _over: over, ready }
    }
}
