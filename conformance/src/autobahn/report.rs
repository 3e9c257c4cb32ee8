//! The suite's report (`index.json`) held against what is expected, both ways: a case that is better than expected is
//! a finding as well, and so is one that did not run or took too long. The suite itself never fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::case::CaseId;
use super::expected::{Expected, Outcome};

/// What the suite says of one case.
#[derive(Clone, Debug, Deserialize)]
pub struct Ended {
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    #[serde(rename = "duration")]
    pub milliseconds: u64,
}

/// What the suite says of one agent: a server, as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Report(BTreeMap<CaseId, Ended>);

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is none.
    #[error("the suite left no report: {0}")]
    Io(#[from] std::io::Error),
    /// It is of another form.
    #[error("the suite's report: {0}")]
    Json(#[from] serde_json::Error),
    /// It has a case of another form.
    #[error("the suite's report: {0}")]
    Case(#[from] super::case::NoCase),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The case was asked for and is not in the report.
    Missing,
    /// The report has a case that nobody knows.
    Unknown,
    /// It ended in another way.
    Otherwise {
        /// How it had to end, and why, if that is not OK.
        wanted: Outcome,
        /// The reason for that.
        reason: Option<String>,
        /// How it ended.
        found: Outcome,
    },
    /// It ended as it had to, but late.
    Slow {
        /// How long it took.
        milliseconds: u64,
        /// The most that it may take.
        most: u64,
    },
}

/// A section's line in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Cases that were to run.
    pub cases: usize,
    /// Those that are OK in both respects.
    pub ok: usize,
    /// Those that the suite only looks at.
    pub informational: usize,
    /// Those that are right, but not as strict as they could be.
    pub non_strict: usize,
    /// Those for which the server lacks something.
    pub unimplemented: usize,
    /// Those that are wrong in either respect.
    pub failed: usize,
    /// Those that did not run.
    pub missing: usize,
    /// What all of them took together, in milliseconds.
    pub milliseconds: u64,
}

impl Report {
    /// Reads the `index.json` in a folder: a report for each agent.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn read_all(folder: &Path) -> Result<BTreeMap<String, Self>, ReportError> {
        let text = std::fs::read_to_string(folder.join("index.json"))?;
        let agents: BTreeMap<String, BTreeMap<String, Ended>> = serde_json::from_str(&text)?;
        let report = |cases: BTreeMap<String, Ended>| {
            let cases = cases.into_iter().map(|(case, ended)| Ok((case.parse()?, ended)));
            cases.collect::<Result<_, ReportError>>().map(Self)
        };
        agents.into_iter().map(|(agent, cases)| Ok((agent, report(cases)?))).collect()
    }

    /// Reads one agent's report. It is empty if the agent isn't there: that is what the suite writes when the server
    /// isn't.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn read(folder: &Path, agent: &str) -> Result<Self, ReportError> {
        Ok(Self::read_all(folder)?.remove(agent).unwrap_or_default())
    }

    /// How a case ended, if it ran.
    pub fn ended(&self, case: &CaseId) -> Option<&Ended> {
        self.0.get(case)
    }

    /// All that is not as it should be, where these cases were to run.
    pub fn findings(&self, expected: &Expected, wanted: &BTreeSet<CaseId>) -> BTreeMap<CaseId, Finding> {
        let judged = wanted.iter().filter_map(|case| Some((case.clone(), self.finding(expected, case)?)));
        let unknown = self.0.keys().filter(|case| !expected.cases().contains(case));
        judged.chain(unknown.map(|case| (case.clone(), Finding::Unknown))).collect()
    }

    fn finding(&self, expected: &Expected, case: &CaseId) -> Option<Finding> {
        let Some(ended) = self.0.get(case) else { return Some(Finding::Missing) };
        let wanted = expected.outcome(case);
        if ended.outcome != wanted {
            let reason = expected.reason(case).map(str::to_owned);
            return Some(Finding::Otherwise { wanted, reason, found: ended.outcome.clone() });
        }
        let most = u64::try_from(expected.limit(case).as_millis()).unwrap_or(u64::MAX);
        (ended.milliseconds > most).then_some(Finding::Slow { milliseconds: ended.milliseconds, most })
    }

    /// A row for each section of these cases.
    pub fn rows(&self, wanted: &BTreeSet<CaseId>) -> BTreeMap<u16, Row> {
        let mut rows = BTreeMap::<u16, Row>::new();
        for case in wanted {
            let row = rows.entry(case.section()).or_default();
            row.cases += 1;
            let Some(ended) = self.0.get(case) else {
                row.missing += 1;
                continue;
            };
            row.milliseconds += ended.milliseconds;
            *row.column(&ended.outcome) += 1;
        }
        rows
    }
}

impl Row {
    /// The worse of the two respects decides.
    fn column(&mut self, outcome: &Outcome) -> &mut usize {
        let any = |word: &str| outcome.behavior == word || outcome.close == word;
        let known = ["OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED"];
        let failed = [&outcome.behavior, &outcome.close].iter().any(|word| !known.contains(&word.as_str()));
        if failed {
            &mut self.failed
        } else if any("UNIMPLEMENTED") {
            &mut self.unimplemented
        } else if any("NON-STRICT") {
            &mut self.non_strict
        } else if any("INFORMATIONAL") {
            &mut self.informational
        } else {
            &mut self.ok
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, close {}", self.behavior, self.close)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("did not run"),
            Self::Unknown => f.write_str("ran, but is none of the cases in expected.json"),
            Self::Otherwise { wanted, reason: None, found } => write!(f, "{found}; expected {wanted}"),
            Self::Otherwise { wanted, reason: Some(reason), found } => {
                write!(f, "{found}; expected.json excuses it as {wanted} ({reason})")
            }
            Self::Slow { milliseconds, most } => {
                write!(f, "took {milliseconds} ms, at most {most} ms: did something wait for a timer?")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ended(behavior: &str, close: &str, duration: u64) -> Value {
        json!({"behavior": behavior, "behaviorClose": close, "duration": duration, "remoteCloseCode": 1000})
    }

    fn report(cases: &Value) -> Report {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.json"), json!({"edge": cases}).to_string()).unwrap();
        assert!(Report::read(folder.path(), "another").unwrap().0.is_empty());
        Report::read(folder.path(), "edge").unwrap()
    }

    fn findings(cases: &Value, wanted: &[&str]) -> Vec<(String, Finding)> {
        let wanted = wanted.iter().map(|case| case.parse().unwrap()).collect();
        let found = report(cases).findings(&Expected::of_the_project().unwrap(), &wanted);
        found.into_iter().map(|(case, finding)| (case.to_string(), finding)).collect()
    }

    #[test]
    fn what_is_as_expected_is_no_finding() {
        let cases =
            json!({"1.1.1": ended("OK", "OK", 3), "7.13.1": ended("INFORMATIONAL", "INFORMATIONAL", 3)});
        assert_eq!(findings(&cases, &["1.1.1", "7.13.1"]), []);
    }

    #[test]
    fn each_way_to_be_wrong_is_found() {
        let cases = json!({
            "1.1.1": ended("FAILED", "OK", 3),
            "1.1.2": ended("OK", "FAILED BY CLIENT", 3),
            "1.1.3": ended("OK", "OK", 1000),
            "7.13.1": ended("OK", "OK", 3),
            "99.1": ended("OK", "OK", 3),
        });
        let found = findings(&cases, &["1.1.1", "1.1.2", "1.1.3", "1.1.4", "7.13.1"]);
        let kinds: Vec<_> = found.iter().map(|(case, finding)| (case.as_str(), finding)).collect();
        assert!(
            matches!(
                kinds[..],
                [
                    ("1.1.1", Finding::Otherwise { reason: None, .. }),
                    ("1.1.2", Finding::Otherwise { reason: None, .. }),
                    ("1.1.3", Finding::Slow { milliseconds: 1000, most: 900 }),
                    ("1.1.4", Finding::Missing),
                    ("7.13.1", Finding::Otherwise { reason: Some(_), .. }),
                    ("99.1", Finding::Unknown),
                ]
            ),
            "{kinds:?}"
        );
    }

    #[test]
    fn rows_count_the_worse_of_both() {
        let cases = json!({
            "6.4.1": ended("NON-STRICT", "OK", 1), "6.4.2": ended("OK", "WRONG CODE", 2), "6.4.3": ended("OK", "OK", 4),
            "12.1.1": ended("UNIMPLEMENTED", "OK", 8),
        });
        let wanted = ["6.4.1", "6.4.2", "6.4.3", "6.4.4", "12.1.1"].map(|case| case.parse().unwrap());
        let rows = report(&cases).rows(&wanted.into());
        let row =
            Row { cases: 4, ok: 1, non_strict: 1, failed: 1, missing: 1, milliseconds: 7, ..Row::default() };
        assert_eq!(rows[&6], row);
        assert_eq!((rows[&12].unimplemented, rows[&12].ok), (1, 0));
    }
}
