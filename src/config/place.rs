//! Where a setting was written: the line, the variable or the flag that an error names, so that whoever reads it
//! knows what to change. Made by the loader for every value it reads.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Written nowhere.
    Default,
    /// What holds without a configuration file.
    Development,
    /// The configuration file, at a line counted from 1.
    File {
        /// As it was named on the command line or in `TIDEGATE_CONFIG`.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The environment variable of that name.
    Variable(String),
    /// The flag, as one would write it.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::Development => f.write_str("development mode"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}
