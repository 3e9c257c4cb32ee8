//! `wstest`, the suite's program: installed where it is missing, given a specification, watched while it runs, and
//! ended with whoever holds it. Its exit code means nothing, so nothing here looks at it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// What the specification is made from; the same file serves the suite's Docker image.
const SPECIFICATION: &str = include_str!("../../autobahn/fuzzingclient.json");
const INSTALLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/autobahn/install.sh");
/// Ninety seconds where it was measured; packages come over the network.
const INSTALLATION: Duration = Duration::from_mins(15);
/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of its output that are kept for a report.
const LINES: usize = 20;

/// The installed program.
#[derive(Clone, Debug)]
pub struct Suite {
    wstest: PathBuf,
}

/// One server, as the suite is to see it.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its name in the report.
    pub name: String,
    /// Where its echo is, `ws://` or `wss://`.
    pub url: String,
}

/// Why the suite did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A program can't be started, or a file not be written.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The installer has failed; it has said why.
    #[error("the installer ({INSTALLER}) has failed: with Docker it works without, see README.md beside it")]
    Installer,
    /// It took too long.
    #[error("{what} was still running after {} s; the last it said:\n{said}", .after.as_secs())]
    Timeout {
        /// Which program.
        what: &'static str,
        /// How long it was given.
        after: Duration,
        /// Its last lines.
        said: String,
    },
    /// What it looked at went away meanwhile.
    #[error("the server is gone; the last the suite said:\n{said}")]
    ServerGone {
        /// Its last lines.
        said: String,
    },
}

/// A program that runs; dropping it ends it.
struct Running {
    child: Child,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Suite {
    /// The program below that folder; the installer puts there what is missing, and is quick when nothing is.
    ///
    /// # Errors
    /// [`SuiteError`] when it can't be installed here.
    pub async fn find_or_install(folder: &Path) -> Result<Self, SuiteError> {
        let mut installer = Command::new("sh");
        installer.arg(INSTALLER).arg(folder).stdout(Stdio::inherit());
        let mut running = Running::start(installer, "the installer", |_| {})?;
        if !running.end("the installer", INSTALLATION, || true).await?.success() {
            return Err(SuiteError::Installer);
        }
        let wstest = folder.join("wstest");
        let wstest = wstest.canonicalize().map_err(|source| problem(wstest.display().to_string(), source))?;
        Ok(Self { wstest })
    }

    /// Lets it run these cases against that server and write its report into the folder. `progress` gets each line
    /// that it says; `alive` is asked now and then whether there is still somebody to talk to.
    ///
    /// # Errors
    /// [`SuiteError`]; not when cases fail, for that is in the report alone.
    pub async fn run(
        &self,
        agent: &Agent,
        cases: &[String],
        folder: &Path,
        within: Duration,
        progress: impl FnMut(&str) + Send + 'static,
        alive: impl FnMut() -> bool,
    ) -> Result<(), SuiteError> {
        let problem = |source| problem(folder.display().to_string(), source);
        std::fs::create_dir_all(folder).map_err(problem)?;
        let folder = &folder.canonicalize().map_err(problem)?;
        // Without a server it would leave the report of an earlier run as its own.
        for old in ["index.json", "index.html"].map(|name| folder.join(name)) {
            if old.exists() {
                std::fs::remove_file(old).map_err(problem)?;
            }
        }
        let file = folder.join("fuzzingclient.json");
        std::fs::write(&file, specification(agent, cases, folder).to_string()).map_err(problem)?;

        let mut wstest = Command::new(&self.wstest);
        wstest.args(["-m", "fuzzingclient", "-s"]).arg(&file);
        // Else what it says comes in blocks, long after.
        wstest.env("PYTHONUNBUFFERED", "1").current_dir(folder).stdout(Stdio::piped());
        Running::start(wstest, "wstest", progress)?.end("wstest", within, alive).await.map(|_| ())
    }
}

fn problem(what: impl Into<String>, source: std::io::Error) -> SuiteError {
    SuiteError::Io { what: what.into(), source }
}

fn specification(agent: &Agent, cases: &[String], folder: &Path) -> Value {
    let mut specification: Value = serde_json::from_str(SPECIFICATION).expect("a test reads it");
    specification["outdir"] = folder.to_string_lossy().into();
    specification["servers"] = json!([{"agent": agent.name, "url": agent.url}]);
    specification["cases"] = cases.into();
    specification
}

impl Running {
    fn start(
        mut command: Command,
        what: &'static str,
        progress: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, SuiteError> {
        let mut child = command.stdin(Stdio::null()).spawn().map_err(|source| problem(what, source))?;
        let said = Arc::<Mutex<VecDeque<String>>>::default();
        if let Some(stdout) = child.stdout.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || follow(stdout, &said, progress));
        }
        Ok(Self { child, said })
    }

    /// Waits for its end, however it ends.
    async fn end(
        &mut self,
        what: &'static str,
        within: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> Result<ExitStatus, SuiteError> {
        let begun = Instant::now();
        loop {
            let ended = self.child.try_wait().map_err(|source| problem(what, source))?;
            if let Some(status) = ended {
                return Ok(status);
            }
            if !alive() {
                return Err(SuiteError::ServerGone { said: self.said() });
            }
            if begun.elapsed() > within {
                return Err(SuiteError::Timeout { what, after: within, said: self.said() });
            }
            sleep(LOOK).await;
        }
    }

    fn said(&self) -> String {
        self.said.lock().iter().flat_map(|line| ["  ", line, "\n"]).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good; the wait takes the zombie away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what it says to the end, so that it never waits for its reader.
fn follow(stdout: ChildStdout, said: &Mutex<VecDeque<String>>, mut progress: impl FnMut(&str)) {
    for line in BufReader::new(stdout).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        progress(&line);
        let mut said = said.lock();
        if said.len() == LINES {
            said.pop_front();
        }
        said.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_names_one_server_and_its_cases() {
        let agent = Agent { name: "ws".into(), url: "ws://127.0.0.1:1/echo".into() };
        let made = specification(&agent, &["1.1.1".into()], Path::new("/reports"));
        assert_eq!(made["servers"], json!([{"agent": "ws", "url": "ws://127.0.0.1:1/echo"}]));
        assert_eq!((&made["cases"], &made["outdir"]), (&json!(["1.1.1"]), &json!("/reports")));
        assert_eq!(made["options"], json!({"failByDrop": false}));
    }

    #[tokio::test]
    async fn a_program_is_ended_when_its_time_is_over_or_its_server_gone() {
        let start = || {
            let mut sleeper = Command::new("sh");
            sleeper.args(["-c", "echo hello; exec sleep 60"]).stdout(Stdio::piped());
            Running::start(sleeper, "a test", |_| {}).unwrap()
        };
        let begun = Instant::now();
        let late = start().end("a test", Duration::from_millis(500), || true).await;
        assert!(matches!(&late, Err(SuiteError::Timeout { said, .. }) if said == "  hello\n"), "{late:?}");
        let gone = start().end("a test", Duration::from_mins(1), || false).await;
        assert!(matches!(gone, Err(SuiteError::ServerGone { .. })), "{gone:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
