//! One nats-server: its configuration, its process, its ports, which stay the same from start to start, and its store,
//! which is a temporary folder.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{NatsError, monitor};
use crate::edge::environment;
use crate::ports;
use crate::signal::{self, Signal};

/// How long a server may take until it answers; recovering a store is part of it.
const START: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of the log that a report shows.
const LOG_TAIL: usize = 4_000;

/// What is particular about a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The program, if not the one of [`nats_server`].
    pub binary: Option<PathBuf>,
    /// More lines of its configuration: users, permissions, TLS.
    pub extra: String,
}

/// A started server.
pub struct Nats {
    name: String,
    binary: PathBuf,
    client: SocketAddr,
    monitor: SocketAddr,
    dir: TempDir,
    child: Option<Child>,
}

/// Its place in a cluster.
pub(super) struct Routes {
    pub(super) own: SocketAddr,
    pub(super) all: Vec<SocketAddr>,
}

/// The program: `NATS_SERVER`, the one on the PATH, or the one of the repository's Python environment.
///
/// # Errors
/// [`NatsError::NoBinary`], which says how to install one.
pub fn nats_server() -> Result<PathBuf, NatsError> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/nats-server");
    let candidates = environment::programs("NATS_SERVER", "nats-server", &[venv]);
    candidates.iter().find(|path| path.is_file()).cloned().ok_or(NatsError::NoBinary { looked: candidates })
}

impl Nats {
    /// Starts one that stands alone, and waits until its JetStream is there.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn start(options: &Options) -> Result<Self, NatsError> {
        let mut nats = Self::prepare("n0", options, None)?;
        nats.launch()?;
        nats.until_healthy(START).await?;
        Ok(nats)
    }

    /// Writes the configuration; nothing runs yet.
    pub(super) fn prepare(name: &str, options: &Options, routes: Option<&Routes>) -> Result<Self, NatsError> {
        let binary = options.binary.clone().map_or_else(nats_server, Ok)?;
        let (client, monitor) = (ports::free()?, ports::free()?);
        let dir = TempDir::new()?;
        let store = dir.path().join("store");
        let mut text = format!(
            "server_name: {name}\nlisten: \"{client}\"\nhttp: \"{monitor}\"\n\
             jetstream {{ store_dir: \"{}\", max_memory_store: 1GB, max_file_store: 4GB }}\n",
            store.display()
        );
        if let Some(Routes { own, all }) = routes {
            let routes: Vec<String> = all.iter().map(|addr| format!("\"nats://{addr}\"")).collect();
            // Without no_advertise a client learns of the others' addresses and goes round its link.
            writeln!(
                text,
                "cluster {{ name: conformance, listen: \"{own}\", no_advertise: true, routes: [{}] }}",
                routes.join(", ")
            )
            .expect("a String takes all");
        }
        text.push_str(&options.extra);
        std::fs::write(dir.path().join("nats.conf"), text)?;
        Ok(Self { name: name.to_owned(), binary, client, monitor, dir, child: None })
    }

    /// Starts the program and returns at once.
    pub(super) fn launch(&mut self) -> Result<(), NatsError> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file())?;
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(self.dir.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Its `server_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.client
    }

    /// The same as a setting of an edge has it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.client)
    }

    /// Where it tells about itself, over HTTP.
    pub fn monitor(&self) -> SocketAddr {
        self.monitor
    }

    /// A folder of its own, in which its extra configuration may want files; gone with it.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32, NatsError> {
        let child = self.child.as_ref().ok_or_else(|| NatsError::Said("nothing: it does not run".to_owned()));
        child.map(Child::id)
    }

    /// Ends it without a word (SIGKILL), also while it is frozen. Without a process nothing happens.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Already gone is as good; the wait takes the zombie away.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), NatsError> {
        Ok(signal::send(self.pid()?, Signal::Stop)?)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), NatsError> {
        Ok(signal::send(self.pid()?, Signal::Continue)?)
    }

    /// Starts it again, on the same ports and with the same store, after killing it if it still runs, and waits until
    /// it answers.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn restart(&mut self) -> Result<(), NatsError> {
        self.kill();
        self.launch()?;
        self.until_it_answers(START).await
    }

    /// Waits until its monitoring port answers.
    pub(super) async fn until_it_answers(&mut self, within: Duration) -> Result<(), NatsError> {
        self.until("answering", "/varz", within).await
    }

    /// Waits until it calls itself healthy: JetStream is there, in a cluster with a leader, and its streams are up to
    /// date.
    ///
    /// # Errors
    /// [`NatsError::Late`].
    pub async fn until_healthy(&mut self, within: Duration) -> Result<(), NatsError> {
        self.until("healthy", "/healthz", within).await
    }

    async fn until(&mut self, what: &'static str, path: &str, within: Duration) -> Result<(), NatsError> {
        let deadline = Instant::now() + within;
        loop {
            if monitor::get(self.monitor, path).await.is_ok() {
                return Ok(());
            }
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                return Err(self.late(what));
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) fn late(&self, what: &'static str) -> NatsError {
        NatsError::Late { name: self.name.clone(), what, log: self.log_tail() }
    }

    /// The end of what it wrote to its log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("nats.log")
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}
