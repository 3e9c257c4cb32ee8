//! Why there is no configuration: one sentence that names the place, the key, and what would be right. Shown by
//! every command as it is; never holds the value of a secret.

use std::io;
use std::path::PathBuf;

use super::Place;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// As it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{place}: not TOML: {problem}")]
    Syntax {
        /// The line.
        place: Place,
        /// What the parser said.
        problem: String,
    },
    /// There is no such section or key.
    #[error("{place}: {key} {advice}")]
    Unknown {
        /// Where it stands.
        place: Place,
        /// As it was written.
        key: String,
        /// What there is instead.
        advice: String,
    },
    /// A value is not what its key takes, or does not go with another one.
    #[error("{place}: {key} = {value} {advice}")]
    Wrong {
        /// Where it stands.
        place: Place,
        /// Section and name.
        key: String,
        /// As it was written; a secret's is left out.
        value: String,
        /// What would be right.
        advice: String,
    },
    /// A variable that holds a setting is no text.
    #[error("the environment variable {variable} is not UTF-8; it must be written anew")]
    NotUtf8 {
        /// Its name.
        variable: String,
    },
}

impl ConfigError {
    /// Whether it was written on the command line, and is therefore wrong usage.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { place: Place::Flag(_), .. } | Self::Wrong { place: Place::Flag(_), .. }
        )
    }
}
