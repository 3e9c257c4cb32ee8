//! `tidegate default-config`: every setting with its unit, default, reason and memory, as a file to start from.

use super::{Failure, print};
use crate::config::DEFAULT_TOML;

/// Prints it.
///
/// # Errors
/// [`Failure::System`] if standard output cannot be written.
pub fn run() -> Result<(), Failure> {
    print(DEFAULT_TOML)
}
