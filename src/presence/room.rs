//! The users of one channel, by id. Most channels have a handful, and there are very many of them (an inbox has one), so
//! a small one is a sorted list without room to spare; a large one is a tree.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use super::user::User;

/// Users from which on it is a tree.
const FEW: usize = 32;

/// Who is in a channel.
pub(super) enum Room {
    Few(Vec<(Arc<str>, User)>),
    Many(BTreeMap<Arc<str>, User>),
}

impl Room {
    pub(super) const fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(super) fn get(&self, user_id: &str) -> Option<&User> {
        match self {
            Self::Few(users) => find(users, user_id).ok().map(|index| &users[index].1),
            Self::Many(users) => users.get(user_id),
        }
    }

    pub(super) fn get_mut(&mut self, user_id: &str) -> Option<&mut User> {
        match self {
            Self::Few(users) => find(users, user_id).ok().map(|index| &mut users[index].1),
            Self::Many(users) => users.get_mut(user_id),
        }
    }

    /// The user, made if need be; and whether it was there.
    pub(super) fn enter(&mut self, user_id: &Arc<str>) -> (&mut User, bool) {
        if let Self::Few(users) = self
            && users.len() >= FEW
            && find(users, user_id).is_err()
        {
            *self = Self::Many(std::mem::take(users).into_iter().collect());
        }
        match self {
            Self::Few(users) => {
                let (index, known) = match find(users, user_id) {
                    Ok(index) => (index, true),
                    Err(index) => {
                        // Exactly: with room for four an inbox would cost four times as much.
                        users.reserve_exact(1 + users.len() / 2);
                        users.insert(index, (Arc::clone(user_id), User::default()));
                        (index, false)
                    }
                };
                (&mut users[index].1, known)
            }
            Self::Many(users) => match users.entry(Arc::clone(user_id)) {
                Entry::Occupied(user) => (user.into_mut(), true),
                Entry::Vacant(place) => (place.insert(User::default()), false),
            },
        }
    }

    pub(super) fn remove(&mut self, user_id: &str) {
        match self {
            Self::Few(users) => {
                if let Ok(index) = find(users, user_id) {
                    users.remove(index);
                }
            }
            Self::Many(users) => {
                users.remove(user_id);
                if users.len() < FEW / 2 {
                    *self = Self::Few(std::mem::take(users).into_iter().collect());
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(users) => users.len(),
            Self::Many(users) => users.len(),
        }
    }

    /// All, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &User)> {
        self.after(None)
    }

    /// Those whose ids are behind that one.
    pub(super) fn after(&self, user_id: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &User)> {
        let (few, many) = match self {
            Self::Few(users) => {
                let begin = user_id.map_or(0, |after| users.partition_point(|(id, _)| &**id <= after));
                (Some(users[begin..].iter().map(|(id, user)| (id, user))), None)
            }
            Self::Many(users) => {
                let begin = user_id.map_or(Bound::Unbounded, Bound::Excluded);
                (None, Some(users.range::<str, _>((begin, Bound::Unbounded))))
            }
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// All, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut User)> {
        let (few, many) = match self {
            Self::Few(users) => (Some(users.iter_mut().map(|(id, user)| (&*id, user))), None),
            Self::Many(users) => (None, Some(users.iter_mut())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

fn find(users: &[(Arc<str>, User)], user_id: &str) -> Result<usize, usize> {
    users.binary_search_by(|(id, _)| (**id).cmp(user_id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn few_and_many_are_the_same_to_who_asks() {
        let mut room = Room::new();
        let mut model = BTreeSet::new();
        let mut random: u32 = 1;
        for step in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id: Arc<str> = format!("u{}", (random >> 16) % 64).into();
            // Grows for a while, then shrinks, past the border each time.
            if (random >> 8) % 10 < if (step / 1000) % 2 == 0 { 7 } else { 2 } {
                assert_eq!(room.enter(&id).1, !model.insert(Arc::clone(&id)));
            } else {
                room.remove(&id);
                model.remove(&id);
            }
            assert_eq!(room.len(), model.len());
            assert_eq!(room.get(&id).is_some(), model.contains(&id));
            assert_eq!(room.get_mut(&id).is_some(), model.contains(&id));
            if step % 50 == 0 {
                assert!(room.iter().map(|(id, _)| id).eq(model.iter()));
                assert!(room.iter_mut().map(|(id, _)| id).eq(model.iter()));
                let after = model.range::<str, _>((Bound::Excluded(&*id), Bound::Unbounded));
                assert!(room.after(Some(&id)).map(|(id, _)| id).eq(after));
            }
        }
    }
}
