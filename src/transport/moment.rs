//! Moments of this node: half the size of an `Instant`, since every connection keeps some. Made by [`super::Bells`],
//! which knows when the node began; never leave the process.

use std::num::NonZero;
use std::ops::{Add, Sub};
use std::time::Duration;

use tokio::time::Instant;

/// Microseconds since the node began, and one: an absent one takes no room beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZero<u64>);

impl Moment {
    /// That instant, or the node's beginning if that is later.
    pub(super) fn since(begun: Instant, at: Instant) -> Self {
        Self(NonZero::<u64>::MIN) + at.saturating_duration_since(begun)
    }

    /// How many whole periods have passed since the node began.
    pub(super) fn periods(self, period: Duration) -> u32 {
        let period = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        u32::try_from((self.0.get() - 1) / period.max(1)).unwrap_or(u32::MAX)
    }
}

impl Sub for Moment {
    type Output = Duration;

    /// None, if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_micros()).unwrap_or(u64::MAX)))
    }
}
