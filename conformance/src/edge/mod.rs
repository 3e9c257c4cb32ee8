//! The edge under test: the real binary, started on free ports with a configuration of the check's own, or a server
//! that runs already. Checks start here; whatever was started ends when its [`Edge`] is dropped.

pub(crate) mod certificate;
pub mod environment;
mod process;
mod settings;
mod token;

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::wire::{Connection, Request, Target, WireError};

pub use process::{Memory, Process};
pub use settings::Settings;
pub use token::Minter;

/// How long the binary may take to listen. A debug build that makes its first key on a busy machine is slow.
const START: Duration = Duration::from_secs(30);
/// Lines of the log that are kept for a report.
const LOG_LINES: usize = 400;

/// A running edge.
pub struct Edge {
    /// Where clients connect, and how they show who they are.
    pub target: Target,
    /// The admin listener, if it is known.
    pub admin: Option<Target>,
    /// The server's process, if it is known.
    pub process: Option<Process>,
    child: Option<Child>,
    log: Arc<Mutex<Log>>,
    _dir: Option<TempDir>,
}

/// Why there is no edge to check.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No binary where it was looked for.
    #[error(
        "no binary of the edge at {looked:?}: build it first (`cargo build`), or name it with TIDEGATE_BIN"
    )]
    NoBinary {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// It could not be started, or its configuration not be written.
    #[error("the edge cannot be started: {0}")]
    Io(#[from] std::io::Error),
    /// It ended, or never said that it listens.
    #[error("the edge does not listen; its log:\n{log}")]
    Silent {
        /// What it said instead.
        log: String,
    },
    /// The surroundings name another server, and something about it is wrong.
    #[error("{variable}: {problem}")]
    Environment {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate could not be made.
    #[error("no certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    panics: Vec<String>,
}

impl Edge {
    /// Starts the binary on free loopback ports with these settings, for a check that has to have it to itself: for its
    /// process, its end, or since nobody else may be there.
    ///
    /// # Errors
    /// [`EdgeError`] when there is no binary, or when it does not listen within half a minute.
    pub async fn start(settings: &Settings) -> Result<Self, EdgeError> {
        if environment::names_an_edge() {
            say("starts its own edge, for it has to have it to itself");
        }
        Self::launch(settings).await
    }

    /// The server that `EDGE_URL` names if it can be what these settings ask for, or else one started with them; with
    /// a line on standard error about which it is, if one is named. Checks share the named one.
    ///
    /// # Errors
    /// As [`Edge::start`], and [`EdgeError::Environment`] when the named server can't be used.
    pub async fn named_or_started(settings: &Settings) -> Result<Self, EdgeError> {
        let Some(named) = Self::named()? else { return Self::launch(settings).await };
        let is_tls = named.target.tls().is_some();
        let beyond = settings.beyond_the_profile().or_else(|| match settings.tls() {
            Some(tls) if tls != is_tls => Some(if tls { "TLS" } else { "plain TCP" }.to_owned()),
            _ => None,
        });
        if let Some(beyond) = beyond {
            say(&format!("starts its own edge, for it asks for {beyond}"));
            return Self::launch(settings).await;
        }
        say("looks at the named edge");
        Ok(named)
    }

    /// The server that `EDGE_URL` names, whatever it is like.
    ///
    /// # Errors
    /// [`EdgeError::Environment`] when it can't be used.
    pub fn named() -> Result<Option<Self>, EdgeError> {
        let named = environment::named_edge()?;
        Ok(named.map(|named| Self {
            target: named.target,
            admin: named.admin,
            process: named.pid.map(Process::new),
            child: None,
            log: Arc::default(),
            _dir: None,
        }))
    }

    async fn launch(settings: &Settings) -> Result<Self, EdgeError> {
        let dir = TempDir::new()?;
        let tls = settings.is_tls().then(|| certificate::make(dir.path())).transpose()?;
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, settings.to_toml(dir.path()))?;

        let mut command = Command::new(environment::binary()?);
        for name in environment::of_the_server() {
            command.env_remove(name);
        }
        let mut child = command
            .env("TIDEGATE_CONFIG", &file)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().expect("it was asked to be a pipe");
        let process = Process::new(child.id());
        let log = Arc::<Mutex<Log>>::default();
        let (said, listening) = oneshot::channel();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || follow(stderr, &lines, said));

        let mut edge = Self {
            target: Target::plain(SocketAddr::from(([127, 0, 0, 1], 0)), settings.minter()),
            admin: None,
            process: Some(process),
            child: Some(child),
            log,
            _dir: Some(dir),
        };
        let Ok(Ok((addr, admin))) = tokio::time::timeout(START, listening).await else {
            return Err(EdgeError::Silent { log: edge.log_tail() });
        };
        let plain = Target::plain(addr, settings.minter());
        edge.target = match tls {
            Some(tls) => plain.with_tls(tls),
            None => plain,
        };
        edge.admin = Some(Target::plain(admin, settings.minter()));
        Ok(edge)
    }

    /// The started binary's process.
    ///
    /// # Panics
    /// If it's a server that was named without its process id.
    pub fn own_process(&self) -> &Process {
        self.process.as_ref().expect("a started edge has a process; a named one needs EDGE_PID")
    }

    /// Asks the admin listener whether the server lives, and says how long that took.
    ///
    /// # Errors
    /// [`WireError`] when it does not answer 200 within ten seconds.
    ///
    /// # Panics
    /// If the admin listener is not known.
    pub async fn livez(&self) -> Result<Duration, WireError> {
        let admin = self.admin.as_ref().expect("a started edge has an admin listener");
        let begun = tokio::time::Instant::now();
        let answer = async { Connection::open(admin).await?.exchange(&Request::get("/livez")).await };
        let response =
            tokio::time::timeout(Duration::from_secs(10), answer).await.map_err(|_| WireError::Timeout)??;
        response.expect_status(200)?;
        Ok(begun.elapsed())
    }

    /// Tells the started server to go, as an operator would: SIGTERM.
    ///
    /// # Errors
    /// When there is no `kill`, or nobody to be told.
    pub fn terminate(&self) -> std::io::Result<()> {
        let pid = self.child.as_ref().map(Child::id).ok_or(std::io::ErrorKind::NotFound)?;
        let told = Command::new("kill").arg("-TERM").arg(pid.to_string()).status()?;
        if told.success() { Ok(()) } else { Err(std::io::Error::other("kill failed")) }
    }

    /// The last lines of its log, for a report.
    pub fn log_tail(&self) -> String {
        let log = self.log.lock();
        log.lines.iter().flat_map(|line| ["  ", line, "\n"]).collect()
    }

    /// What it said about panics of its own; a check ends with none. The log of a named one is not read.
    pub fn panics(&self) -> Vec<String> {
        self.log.lock().panics.clone()
    }

    /// Asks the started process to drain and go (SIGTERM), and does not wait for it.
    ///
    /// # Errors
    /// When it was not started here, or is gone.
    pub fn begin_drain(&self) -> std::io::Result<()> {
        let child =
            self.child.as_ref().ok_or_else(|| std::io::Error::other("a server of somebody else's"))?;
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("kill: {status}"))) }
    }

    /// The started process's id.
    ///
    /// # Errors
    /// When it was not started here.
    pub fn pid(&self) -> std::io::Result<u32> {
        let child = self.child.as_ref();
        child.map(Child::id).ok_or_else(|| std::io::Error::other("a server of somebody else's"))
    }

    /// Waits until the started process has gone by itself, and says whether it did in time.
    pub async fn is_gone(&mut self, within: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + within;
        while self.is_alive() {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Whether the started process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Already gone is as good; the wait takes the zombie away.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A line about the check that runs on this thread. Not `eprintln!`: what a check prints with it is shown when it fails.
fn say(what: &str) {
    let thread = std::thread::current();
    let check = thread.name().unwrap_or("a check");
    // Without a standard error there is nobody to be told.
    let _ = writeln!(std::io::stderr().lock(), "{check} {what}");
}

/// Reads the log to its end, so that the server never waits for its reader.
fn follow(stderr: ChildStderr, log: &Mutex<Log>, said: oneshot::Sender<(SocketAddr, SocketAddr)>) {
    let mut said = Some(said);
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(listening) = listening(&line)
            && let Some(said) = said.take()
        {
            // Nobody waits any more: the start has timed out.
            let _ = said.send(listening);
        }
        let mut log = log.lock();
        if line.contains("panicked at") {
            log.panics.push(line.clone());
        }
        if log.lines.len() == LOG_LINES {
            log.lines.pop_front();
        }
        log.lines.push_back(line);
    }
}

/// The addresses in the line `listening`, whether its fields stand in an object of their own or not.
fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")?.as_str()? != "listening" {
        return None;
    }
    let addr = |name: &str| fields.get(name)?.as_str()?.parse().ok();
    Some((addr("addr")?, addr("admin")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_known_in_both_forms() {
        let nested =
            r#"{"level":"INFO","fields":{"message":"listening","addr":"127.0.0.1:1","admin":"127.0.0.1:2"}}"#;
        let flat = r#"{"level":"INFO","message":"listening","addr":"127.0.0.1:1","admin":"127.0.0.1:2"}"#;
        for line in [nested, flat] {
            let (addr, admin) = listening(line).unwrap();
            assert_eq!((addr.port(), admin.port()), (1, 2));
        }
        assert_eq!(listening(r#"{"message":"draining"}"#), None);
        assert_eq!(listening("listening addr=127.0.0.1:1"), None);
    }
}
