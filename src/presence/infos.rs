//! What tokens say about users of other nodes, once each: a user is in many channels, and each of its members would else
//! hold a copy of up to 4 KB.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::value::RawValue;

/// All that are in use, and some that were.
#[derive(Default)]
pub(super) struct Infos {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    known: HashSet<Info>,
    /// How many there may be before it is looked which of them are still in use.
    look_at: usize,
}

struct Info(Arc<RawValue>);

impl Infos {
    /// The one that is known already, if there is one that says the same.
    pub(super) fn share(&self, info: Arc<RawValue>) -> Arc<RawValue> {
        let mut table = self.table.lock();
        if let Some(known) = table.known.get(info.get()) {
            return Arc::clone(&known.0);
        }
        if table.known.len() >= table.look_at {
            table.known.retain(|info| Arc::strong_count(&info.0) > 1);
            table.look_at = 2 * table.known.len() + 1024;
        }
        table.known.insert(Info(Arc::clone(&info)));
        info
    }
}

impl Borrow<str> for Info {
    fn borrow(&self) -> &str {
        self.0.get()
    }
}

impl Hash for Info {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

impl PartialEq for Info {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Info {}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: String) -> Arc<RawValue> {
        RawValue::from_string(text).unwrap().into()
    }

    #[test]
    fn the_same_is_held_once_and_what_nobody_uses_is_forgotten() {
        let infos = Infos::default();
        let one = infos.share(info("{\"a\":1}".to_owned()));
        assert!(Arc::ptr_eq(&one, &infos.share(info("{\"a\":1}".to_owned()))));
        for number in 0..10_000 {
            infos.share(info(number.to_string()));
        }
        assert!(infos.table.lock().known.len() < 3000);
        assert!(Arc::ptr_eq(&one, &infos.share(info("{\"a\":1}".to_owned()))));
    }
}
