//! What the suite has to find: which cases there are, how each must end, and how long it may take. Read from
//! `expected.json`, where each exception carries its reason. It judges nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::case::{CaseId, Pattern};

/// The file, as it was when this was compiled.
const FILE: &str = include_str!("../../autobahn/expected.json");

/// How a case ends, in the suite's own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Outcome {
    /// What became of what was sent.
    pub behavior: String,
    /// What became of the closing handshake.
    #[serde(rename = "behaviorClose")]
    pub close: String,
}

/// A case that does not end OK, and why that is right.
#[derive(Clone, Debug, Deserialize)]
pub struct Exception {
    /// How it ends.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// All of it.
#[derive(Debug)]
pub struct Expected {
    cases: BTreeSet<CaseId>,
    exceptions: BTreeMap<CaseId, Exception>,
    limits: Vec<(Pattern, Duration)>,
    smoke: Vec<Pattern>,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum ExpectedError {
    /// It isn't of its form.
    #[error("expected.json: {0}")]
    Form(#[from] serde_json::Error),
    /// It names something that is no case.
    #[error("expected.json: {0}")]
    Case(#[from] super::case::NoCase),
    /// An exception without a reason, or for a case that the suite does not have.
    #[error("expected.json: the exception {0} has no reason, or is none of the cases")]
    Exception(CaseId),
    /// A limit that is no time.
    #[error("expected.json: {0} seconds")]
    Seconds(f64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: BTreeMap<String, u16>,
    exceptions: BTreeMap<String, Exception>,
    seconds: Vec<Seconds>,
    smoke: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seconds {
    cases: String,
    most: f64,
    #[serde(rename = "reason")]
    _reason: String,
}

impl Seconds {
    fn most(&self) -> Result<Duration, ExpectedError> {
        Duration::try_from_secs_f64(self.most).map_err(|_| ExpectedError::Seconds(self.most))
    }
}

impl Outcome {
    /// The one that almost every case must have.
    pub fn ok() -> Self {
        Self { behavior: "OK".into(), close: "OK".into() }
    }
}

impl Expected {
    /// What the project expects.
    ///
    /// # Errors
    /// [`ExpectedError`] when the file is not as it has to be.
    pub fn of_the_project() -> Result<Self, ExpectedError> {
        Self::read(serde_json::from_str(FILE)?)
    }

    fn read(json: Value) -> Result<Self, ExpectedError> {
        let file: File = serde_json::from_value(json)?;
        let mut cases = BTreeSet::new();
        for (group, count) in &file.cases {
            let group: CaseId = group.parse()?;
            cases.extend((1..=*count).map(|number| group.within(number)));
        }
        let mut exceptions = BTreeMap::new();
        for (case, exception) in file.exceptions {
            let case: CaseId = case.parse()?;
            if exception.reason.is_empty() || !cases.contains(&case) {
                return Err(ExpectedError::Exception(case));
            }
            exceptions.insert(case, exception);
        }
        let limits = file.seconds.iter().map(|row| Ok((row.cases.parse()?, row.most()?)));
        let smoke = file.smoke.iter().map(|pattern| Ok(pattern.parse()?));
        Ok(Self {
            cases,
            exceptions,
            limits: limits.collect::<Result<_, ExpectedError>>()?,
            smoke: smoke.collect::<Result<_, ExpectedError>>()?,
        })
    }

    /// Every case of the suite.
    pub fn cases(&self) -> &BTreeSet<CaseId> {
        &self.cases
    }

    /// A selection that takes less than three minutes, with a sample of what is slow.
    pub fn smoke(&self) -> &[Pattern] {
        &self.smoke
    }

    /// How a case must end.
    pub fn outcome(&self, case: &CaseId) -> Outcome {
        self.exceptions.get(case).map_or_else(Outcome::ok, |exception| exception.outcome.clone())
    }

    /// Why it need not end OK, if that is so.
    pub fn reason(&self, case: &CaseId) -> Option<&str> {
        self.exceptions.get(case).map(|exception| exception.reason.as_str())
    }

    /// How long a case may take before it looks as if something had been stuck. The last row that chooses it counts.
    pub fn limit(&self, case: &CaseId) -> Duration {
        let row = self.limits.iter().rev().find(|(pattern, _)| pattern.chooses(case));
        row.map_or(Duration::MAX, |(_, most)| *most)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_projects_file_is_whole() {
        let expected = Expected::of_the_project().unwrap();
        // As many as version 25.10.1 says that it runs.
        assert_eq!(expected.cases().len(), 517);
        let excused: Vec<String> = expected.exceptions.keys().map(ToString::to_string).collect();
        assert_eq!(excused, ["7.1.6", "7.13.1", "7.13.2"]);
        assert!(expected.cases().iter().all(|case| expected.limit(case) < Duration::from_mins(10)));
        for pattern in expected.smoke().iter().chain(expected.limits.iter().map(|(pattern, _)| pattern)) {
            assert!(expected.cases().iter().any(|case| pattern.chooses(case)), "{pattern:?} chooses nothing");
        }
    }

    #[test]
    fn an_exception_needs_a_reason_and_a_case() {
        let with = |case: &str, reason: &str| {
            Expected::read(json!({
                "cases": {"1.1": 2}, "seconds": [{"cases": "*", "most": 1, "reason": "x"}], "smoke": [],
                "exceptions": {case: {"behavior": "NON-STRICT", "behaviorClose": "OK", "reason": reason}},
            }))
        };
        let expected = with("1.1.2", "because").unwrap();
        assert_eq!(expected.outcome(&"1.1.2".parse().unwrap()).behavior, "NON-STRICT");
        assert_eq!(expected.outcome(&"1.1.1".parse().unwrap()), Outcome::ok());
        assert!(with("1.1.2", "").is_err() && with("1.1.3", "because").is_err());
    }
}
