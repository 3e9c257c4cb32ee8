//! The memory of an idle connection, held against what is recorded in `benches/memory.json`: by `load memory`. A
//! figure that has grown by more than a fifth is a failure; one
//! that has become better is recorded by whoever made it so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::feed::Transport;

/// What is recorded: bytes for each connection, by build, then by transport and way ("sse tls").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded(BTreeMap<String, BTreeMap<String, u64>>);

/// How one figure compares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Transport and way.
    pub name: String,
    /// Bytes for each connection, now.
    pub bytes: u64,
    /// The same as it is recorded, if it is.
    pub recorded: Option<u64>,
}

/// How much more than recorded is let pass, in percent: allocators and pages make some of it.
const TOLERANCE: u64 = 20;

impl Recorded {
    /// Where it is in the repository.
    pub fn file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/memory.json")
    }

    /// Which build this is, and the server beside it is taken to be.
    pub fn build() -> &'static str {
        if cfg!(debug_assertions) { "development" } else { "release" }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is not there, or is something else.
    pub fn read(file: &Path) -> io::Result<Self> {
        let text = std::fs::read(file)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Takes these figures over for that build, and writes all of it.
    ///
    /// # Errors
    /// Those of the file.
    pub fn record(&mut self, build: &str, measured: &[Comparison], file: &Path) -> io::Result<()> {
        let figures = self.0.entry(build.to_owned()).or_default();
        figures.extend(measured.iter().map(|one| (one.name.clone(), one.bytes)));
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(file, text)
    }

    /// That figure beside the recorded one.
    pub fn compare(&self, build: &str, transport: Transport, tls: bool, bytes: u64) -> Comparison {
        let name = format!("{transport}{}", if tls { " tls" } else { "" });
        let recorded = self.0.get(build).and_then(|figures| figures.get(&name)).copied();
        Comparison { name, bytes, recorded }
    }
}

impl Comparison {
    /// Whether it is not more than a fifth above what is recorded; one that is not recorded is not held.
    pub fn holds(&self) -> bool {
        self.recorded.is_some_and(|recorded| self.bytes * 100 <= recorded * (100 + TOLERANCE))
    }
}

/// The comparisons as a table.
pub fn comparisons(all: &[Comparison]) -> String {
    let mut text = format!("{:14} {:>8} {:>9}\n", "", "bytes", "recorded");
    for one in all {
        let recorded = one.recorded.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        let said = match one.recorded {
            None => "not recorded",
            Some(_) if !one.holds() => "TOO MUCH",
            Some(recorded) if one.bytes * 10 < recorded * 9 => "better: record it",
            _ => "",
        };
        // A String takes all.
        let _ = writeln!(text, "{:14} {:>8} {recorded:>9}  {said}", one.name, one.bytes);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_more_is_too_much() {
        let one = |bytes, recorded| Comparison { name: "sse".into(), bytes, recorded };
        assert!(one(1200, Some(1000)).holds() && one(10, Some(1000)).holds());
        assert!(!one(1201, Some(1000)).holds() && !one(1, None).holds());
        let text = comparisons(&[one(1300, Some(1000)), one(800, Some(1000)), one(1000, Some(1000))]);
        assert_eq!((text.matches("TOO MUCH").count(), text.matches("record it").count()), (1, 1));
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("memory.json");
        let mut recorded = Recorded::default();
        let measured = [recorded.compare("release", Transport::Sse, true, 5000)];
        recorded.record("release", &measured, &file).unwrap();
        let read = Recorded::read(&file).unwrap();
        assert_eq!(read.compare("release", Transport::Sse, true, 6000).recorded, Some(5000));
        assert_eq!(read.compare("development", Transport::Sse, true, 6000).recorded, None);
        assert_eq!(read.compare("release", Transport::Sse, false, 6000).recorded, None);
    }

    #[test]
    fn the_repository_has_a_figure_for_everything() {
        let recorded = Recorded::read(&Recorded::file()).unwrap();
        for (transport, tls) in Transport::ALL.into_iter().flat_map(|one| [(one, false), (one, true)]) {
            assert!(recorded.compare("release", transport, tls, 0).recorded.is_some(), "{transport}");
        }
    }
}
