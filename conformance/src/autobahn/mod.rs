//! The Autobahn test suite against an echo: run, then held against `expected.json`. What `wstest` itself lets pass is
//! a failure here: fewer cases than there should be, no server, a case that ended only because a timer of the suite
//! did. Called by the program of that name; starts no server and knows nothing of one but its URL.

mod case;
mod expected;
mod report;
mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

pub use case::{CaseId, NoCase, Pattern};
pub use expected::{Exception, Expected, ExpectedError, Outcome};
pub use report::{Ended, Finding, Report, ReportError, Row};
pub use suite::{Agent, Suite, SuiteError};

/// The most that is put down to a stall of the machine. What takes longer is not run again: it need not happen every
/// time to be true.
const STALL: Duration = Duration::from_secs(3);
/// More slow cases than that are not run again either: a machine stalls once, or is not one to judge anything by.
const REPEATED_MAX: usize = 3;
/// How long nothing is said of where it is.
const SILENCE: Duration = Duration::from_secs(30);
/// Findings of one kind that are shown.
const SHOWN: usize = 40;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which cases.
    pub cases: BTreeSet<CaseId>,
    /// Where the reports go: a folder per agent.
    pub folder: PathBuf,
    /// How long the suite may take for one agent.
    pub within: Duration,
}

/// What is to be said of one agent.
#[derive(Debug)]
pub struct Verdict {
    /// Its name.
    pub agent: String,
    /// How many cases were to run.
    pub cases: usize,
    /// A row for each section.
    pub rows: BTreeMap<u16, Row>,
    /// What is not as it should be; nothing if the agent has passed.
    pub findings: BTreeMap<CaseId, Finding>,
    /// Cases that were slow and ran again, with the milliseconds of the first time.
    pub repeated: BTreeMap<CaseId, u64>,
    /// How long it took, if it ran now.
    pub elapsed: Option<Duration>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The suite did not come to its end.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// Its report can't be read.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl Plan {
    /// Those of the suite's cases that a pattern chooses.
    ///
    /// # Errors
    /// The first pattern that chooses none: a run of less than was asked for would pass.
    pub fn choose(expected: &Expected, patterns: &[Pattern]) -> Result<BTreeSet<CaseId>, Pattern> {
        let chosen = |pattern: &Pattern| {
            expected.cases().iter().filter(|case| pattern.chooses(case)).cloned().collect()
        };
        let mut cases = BTreeSet::new();
        for pattern in patterns {
            let more: Vec<CaseId> = chosen(pattern);
            if more.is_empty() {
                return Err(pattern.clone());
            }
            cases.extend(more);
        }
        Ok(cases)
    }
}

/// Runs the plan's cases against one agent and judges the report. A few cases that were right but a little slow run
/// once more by themselves, so that a stall of the machine is no finding; what waits for a timer is slow again.
///
/// # Errors
/// [`CheckError`] when there is nothing to be judged.
pub async fn check(
    suite: &Suite,
    agent: &Agent,
    plan: &Plan,
    expected: &Expected,
    mut alive: impl FnMut() -> bool,
) -> Result<Verdict, CheckError> {
    let begun = Instant::now();
    let folder = plan.folder.join(&agent.name);
    // All of them by its own word for it, so that a case that it has and we don't is seen.
    let all = plan.cases == *expected.cases();
    let cases = if all { vec!["*".to_owned()] } else { plan.cases.iter().map(ToString::to_string).collect() };
    suite.run(agent, &cases, &folder, plan.within, progress(&agent.name), &mut alive).await?;
    let report = Report::read(&folder, &agent.name)?;
    let mut findings = report.findings(expected, &plan.cases);

    let stalled = |finding: &Finding| match finding {
        Finding::Slow { milliseconds, .. } if u128::from(*milliseconds) <= STALL.as_millis() => {
            Some(*milliseconds)
        }
        _ => None,
    };
    let mut repeated: BTreeMap<CaseId, u64> =
        findings.iter().filter_map(|(case, finding)| Some((case.clone(), stalled(finding)?))).collect();
    if repeated.len() > REPEATED_MAX {
        repeated.clear();
    }
    if !repeated.is_empty() {
        let (again, left) = (folder.join("again"), plan.within.saturating_sub(begun.elapsed()));
        let cases: Vec<String> = repeated.keys().map(ToString::to_string).collect();
        suite.run(agent, &cases, &again, left, |_| {}, &mut alive).await?;
        findings.retain(|case, _| !repeated.contains_key(case));
        let cases = repeated.keys().cloned().collect();
        findings.extend(Report::read(&again, &agent.name)?.findings(expected, &cases));
    }
    let elapsed = Some(begun.elapsed());
    Ok(Verdict { findings, repeated, elapsed, ..Verdict::of(&agent.name, &report, expected, &plan.cases) })
}

/// Judges a report that was made elsewhere, by the suite's Docker image for one: a verdict for each agent in it.
///
/// # Errors
/// [`ReportError`] when it can't be read.
pub fn judge(
    folder: &Path,
    cases: &BTreeSet<CaseId>,
    expected: &Expected,
) -> Result<Vec<Verdict>, ReportError> {
    let reports = Report::read_all(folder)?;
    Ok(reports.iter().map(|(agent, report)| Verdict::of(agent, report, expected, cases)).collect())
}

impl Verdict {
    fn of(agent: &str, report: &Report, expected: &Expected, cases: &BTreeSet<CaseId>) -> Self {
        Self {
            agent: agent.to_owned(),
            cases: cases.len(),
            rows: report.rows(cases),
            findings: report.findings(expected, cases),
            repeated: BTreeMap::new(),
            elapsed: None,
        }
    }
}

/// The table, and below it whatever is not as it should be.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>6} {:>5} {:>13} {:>10} {:>13} {:>6} {:>7} {:>9}",
            self.agent,
            "cases",
            "OK",
            "informational",
            "non-strict",
            "unimplemented",
            "failed",
            "missing",
            "seconds"
        )?;
        for (section, row) in &self.rows {
            let seconds = Duration::from_millis(row.milliseconds).as_secs_f64();
            writeln!(
                f,
                "{section:>12} {:>6} {:>5} {:>13} {:>10} {:>13} {:>6} {:>7} {seconds:>9.1}",
                row.cases,
                row.ok,
                row.informational,
                row.non_strict,
                row.unimplemented,
                row.failed,
                row.missing
            )?;
        }
        for (case, first) in &self.repeated {
            writeln!(f, "{}: {case} took {first} ms, and was run again by itself", self.agent)?;
        }
        let (missing, others): (Vec<_>, Vec<_>) =
            self.findings.iter().partition(|(_, finding)| **finding == Finding::Missing);
        if !missing.is_empty() {
            let first: Vec<String> = missing.iter().take(SHOWN).map(|(case, _)| case.to_string()).collect();
            let more = if missing.len() > SHOWN { ", …" } else { "" };
            writeln!(f, "{}: {} cases did not run: {}{more}", self.agent, missing.len(), first.join(", "))?;
        }
        for (case, finding) in others.iter().take(SHOWN) {
            writeln!(f, "{}: {case} {finding}", self.agent)?;
        }
        if others.len() > SHOWN {
            writeln!(f, "{}: and {} more", self.agent, others.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Says where the suite is, for whoever waits: when a section begins, and now and then.
fn progress(agent: &str) -> impl FnMut(&str) + Send + use<> {
    let (agent, mut said) = (agent.to_owned(), None);
    move |line| {
        let case = line.strip_prefix("Running test case ID ").and_then(|rest| rest.split(' ').next());
        let Some(case) = case.and_then(|case| case.parse::<CaseId>().ok()) else { return };
        let due = said
            .is_none_or(|(section, at): (u16, Instant)| section != case.section() || at.elapsed() > SILENCE);
        if due {
            eprintln!("{agent}: at {case}");
            said = Some((case.section(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_chooses_nothing_is_refused() {
        let expected = Expected::of_the_project().unwrap();
        let patterns =
            |texts: &[&str]| -> Vec<Pattern> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(Plan::choose(&expected, &patterns(&["2.*", "2.1", "10.*"])).unwrap().len(), 12);
        assert_eq!(Plan::choose(&expected, &patterns(&["2.*", "2.12"])), Err("2.12".parse().unwrap()));
        assert_eq!(Plan::choose(&expected, &patterns(&["*"])).unwrap(), *expected.cases());
    }

    #[test]
    fn a_report_of_too_little_is_no_pass() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.json"), r#"{"edge": {}}"#).unwrap();
        let expected = Expected::of_the_project().unwrap();
        let verdicts = judge(folder.path(), expected.cases(), &expected).unwrap();
        assert_eq!((verdicts.len(), verdicts[0].findings.len()), (1, 517));
        let shown = verdicts[0].to_string();
        assert!(
            shown.contains("edge: 517 cases did not run: 1.1.1, 1.1.2,") && shown.ends_with("…\n"),
            "{shown}"
        );
    }
}
