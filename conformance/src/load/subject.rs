//! A server under load: Tidegate, or one that it is measured beside, started for one measurement on a free port, with
//! the configuration of `benches/peers`. What was started ends with its [`Subject`], whatever happens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::Resumption;

use super::cost::Family;
use super::socket::Address;
use super::talk::Kind;
use crate::edge::{Edge, EdgeError, Minter, Settings, certificate};

/// A running server.
pub struct Subject {
    /// Which one.
    pub kind: Kind,
    /// Where it listens.
    pub address: Address,
    /// Its processes, if they are known.
    pub family: Option<Family>,
    tokens: Option<Minter>,
    _running: Running,
}

/// Where the other servers are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Their configurations and scripts, with `node_modules`.
    pub peers: PathBuf,
    /// The Python environment that has two of them.
    pub venv: PathBuf,
}

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// Tidegate does not start.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// Another server does not start.
    #[error("{name} cannot be started with {program}: {error} (`./test bench` installs it)")]
    Start {
        /// Which.
        name: &'static str,
        /// By what.
        program: String,
        /// Why not.
        error: io::Error,
    },
    /// It ended, or does not listen.
    #[error("{name} does not listen: {said}")]
    Silent {
        /// Which.
        name: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// Its configuration could not be written, or no port found.
    #[error(transparent)]
    Io(#[from] io::Error),
}

enum Running {
    Elsewhere,
    Edge { _edge: Box<Edge> },
    Peer { child: Child, family: Family, _dir: TempDir },
}

/// How long a server may take to listen, and to go.
const PATIENCE: Duration = Duration::from_secs(20);

impl Subject {
    /// Starts one, plain or behind TLS. The settings are Tidegate's; the others have theirs in their files.
    ///
    /// # Errors
    /// [`SubjectError`].
    ///
    /// # Panics
    /// Never: the thread that starts a server does not.
    pub async fn start(
        kind: Kind,
        tls: bool,
        tools: &Tools,
        settings: &Settings,
    ) -> Result<Self, SubjectError> {
        if kind == Kind::Tidegate {
            let settings = settings.clone();
            let settings = if tls { settings.over_tls() } else { settings.over_tcp() };
            return Ok(Self::of(Edge::start(&settings).await?));
        }
        let (tools, handle) = (tools.clone(), tokio::task::spawn_blocking);
        handle(move || peer(kind, tls, &tools)).await.expect("the start of a server does not panic")
    }

    /// An edge, which ends with it.
    pub fn of(edge: Edge) -> Self {
        let beside = Self::beside(&edge);
        Self { _running: Running::Edge { _edge: Box::new(edge) }, ..beside }
    }

    /// An edge that others look at too, and whose end is theirs.
    pub fn beside(edge: &Edge) -> Self {
        let tls = edge.target.tls().map(|tls| client(tls.config()));
        Self {
            kind: Kind::Tidegate,
            address: Address { addr: edge.target.addr, tls },
            family: edge.process.as_ref().and_then(|process| Some(Family::new(process.id()?))),
            tokens: Some(edge.target.tokens.clone()),
            _running: Running::Elsewhere,
        }
    }

    /// The token of the `index`-th user, or nothing where none is asked for.
    pub fn user_token(&self, index: usize) -> String {
        self.tokens.as_ref().map(|tokens| tokens.user(&format!("load-{index}"))).unwrap_or_default()
    }

    /// The token of a backend, or nothing where none is asked for.
    pub fn publisher_token(&self) -> String {
        self.tokens.as_ref().map(|tokens| tokens.server("publisher")).unwrap_or_default()
    }

    /// The same server to clients that come back with a ticket of their last handshake (RFC 8446 §2.2).
    #[must_use]
    pub fn resuming(&self) -> Address {
        let mut address = self.address.clone();
        address.tls = address.tls.map(|tls| {
            let mut tls = ClientConfig::clone(&tls);
            tls.resumption = Resumption::in_memory_sessions(64);
            Arc::new(tls)
        });
        address
    }
}

/// Each client of a load is another one: none resumes another's session.
fn client(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn peer(kind: Kind, tls: bool, tools: &Tools) -> Result<Subject, SubjectError> {
    let dir = TempDir::new()?;
    let trusting = if tls { Some(certificate::make(dir.path())?) } else { None };
    let addr = free_port()?;
    let mut command = command(kind, tls, tools, dir.path(), addr)?;
    let log = dir.path().join("log");
    let output = std::fs::File::create(&log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|error| SubjectError::Start { name: kind.name(), program, error })?;
    let family = Family::new(child.id());
    let mut running = Running::Peer { child, family: family.clone(), _dir: dir };
    if !running.listens(addr) {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let end = said.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
        return Err(SubjectError::Silent { name: kind.name(), said: end });
    }
    let tls = trusting.map(|trusting| client(trusting.config()));
    let (address, family) = (Address { addr, tls }, Some(family));
    Ok(Subject { kind, address, family, tokens: None, _running: running })
}

fn command(
    kind: Kind,
    tls: bool,
    tools: &Tools,
    dir: &Path,
    addr: SocketAddr,
) -> Result<Command, SubjectError> {
    let file = |name: &str| tools.peers.join(name);
    let with = |program: &Path, script: Option<&str>| {
        let mut command = Command::new(program);
        command.args(script.map(file)).arg(addr.port().to_string());
        if tls {
            command.arg(dir.join(certificate::CERT)).arg(dir.join(certificate::KEY));
        }
        command
    };
    Ok(match kind {
        Kind::Tidegate => unreachable!("it is started as an edge"),
        Kind::Raw => with(&std::env::current_exe()?.with_file_name("raw_fanout"), None),
        Kind::UWebSockets => with(&tools.venv.join("bin/python"), Some("uwebsockets.py")),
        Kind::Ws => with(Path::new("node"), Some("ws.mjs")),
        Kind::SocketIo => with(Path::new("node"), Some("socket_io.mjs")),
        Kind::Nats => {
            let config = fill(&file("nats.conf"), tls, dir, addr)?;
            let mut command = Command::new(tools.venv.join("bin/nats-server"));
            command.arg("-c").arg(config);
            command
        }
        Kind::Nchan => {
            let config = fill(&file("nchan.conf"), tls, dir, addr)?;
            let mut command = Command::new("nginx");
            command.arg("-c").arg(config).arg("-e").arg("stderr");
            command
        }
    })
}

/// A configuration file with what differs from start to start filled in.
fn fill(template: &Path, tls: bool, dir: &Path, addr: SocketAddr) -> io::Result<PathBuf> {
    let text = std::fs::read_to_string(template)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", template.display())))?;
    let files = rlimit::getrlimit(rlimit::Resource::NOFILE)?.0;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let text = text
        .replace("# @TLS@ ", if tls { "" } else { "# " })
        .replace("@PLAIN@ ", if tls { "# " } else { "" })
        .replace("@SSL@", if tls { "ssl" } else { "" })
        .replace("@PORT@", &addr.port().to_string())
        .replace("@FILES@", &files.to_string())
        .replace("@CERT@", &path(certificate::CERT))
        .replace("@KEY@", &path(certificate::KEY))
        .replace("@DIR@", &dir.to_string_lossy());
    let filled = dir.join(template.file_name().unwrap_or_default());
    std::fs::write(&filled, text)?;
    Ok(filled)
}

/// A port that nobody has; somebody may take it before the server does, and then it does not listen.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

impl Running {
    #[expect(clippy::disallowed_methods, reason = "on a thread for blocking work")]
    fn listens(&mut self, addr: SocketAddr) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Self::Peer { child, .. } = self
                && !matches!(child.try_wait(), Ok(None))
            {
                return false;
            }
            if TcpStream::connect_timeout(&addr, PATIENCE).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Running {
    /// nginx ends its workers when it is told to go, and leaves them when it is killed.
    #[expect(clippy::disallowed_methods, reason = "some milliseconds, between two measurements")]
    fn drop(&mut self) {
        let Self::Peer { child, family, .. } = self else { return };
        let members = family.members().unwrap_or_default();
        let tell = |signal: &str, pid: u32| {
            // It may be gone already.
            let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
        };
        tell("-TERM", child.id());
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for pid in members {
            tell("-KILL", pid);
        }
        let _ = child.wait();
    }
}
