//! An edge that follows a script, and the command that talks to it. Both end by themselves or when dropped.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

/// Nothing here waits longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An edge that does what the script says with the connections it accepts.
pub(crate) struct Edge {
    pub(crate) addr: SocketAddr,
    script: Option<JoinHandle<()>>,
}

impl Edge {
    pub(crate) fn new(script: impl FnOnce(&TcpListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let script = std::thread::spawn(move || script(&listener));
        Self { addr, script: Some(script) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The end of the script, whose assertions count.
    pub(crate) fn done(mut self) {
        self.script.take().unwrap().join().unwrap();
    }
}

/// The next connection.
pub(crate) fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    listener.set_nonblocking(true).unwrap();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nobody came");
            }
            Err(error) => panic!("{error}"),
        }
        std::thread::park_timeout(Duration::from_millis(2));
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// A request's head in lower case, line by line, and its body.
pub(crate) fn request(stream: &mut impl BufRead) -> (Vec<String>, String) {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line if head.is_empty() => head.push(line.to_owned()),
            line => {
                let (name, value) = line.split_once(": ").unwrap();
                head.push(format!("{}: {value}", name.to_lowercase()));
            }
        }
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

pub(crate) fn answer(stream: &mut impl Write, status: &str, fields: &str, body: &str) {
    write!(stream, "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n", body.len()).unwrap();
    stream.flush().unwrap();
    // A body that comes later than its head shows whether the client keeps the connection for it.
    std::thread::park_timeout(Duration::from_millis(20));
    stream.write_all(body.as_bytes()).unwrap();
}

pub(crate) fn has(head: &[String], line: &str) -> bool {
    head.iter().any(|found| found == line)
}

/// Waits until the client is gone.
pub(crate) fn leaves(stream: &mut BufReader<TcpStream>) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the client was to leave: {other:?}"),
    }
}

/// The command, in its own empty directory and environment; ended when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    _directory: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments, env)
    }

    pub(crate) fn start_in(directory: tempfile::TempDir, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .current_dir(directory.path())
            .env_clear()
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, _directory: directory }
    }

    /// Exit code, standard output, standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String, String) {
        drop(self.child.stdin.take());
        let (out, errors) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let (out, errors) = (std::thread::spawn(|| all_of(out)), std::thread::spawn(|| all_of(errors)));
        let code = self.exit_code();
        (code, out.join().unwrap(), errors.join().unwrap())
    }

    /// Waits for its end; `None` if it had to be ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all_of(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    Running::start(arguments, &[]).end()
}

pub(crate) fn message(seq: u64) -> String {
    let data = json!({"n": seq});
    let payload = json!({"channel": "a", "data": data, "epoch": "e", "seq": seq, "prev": seq - 1});
    json!({"type": "message", "payload": payload, "metadata": {}}).to_string()
}

pub(crate) fn joined(cursor: &str) -> String {
    let payload = json!({"channel": "a", "epoch": "e", "seq": 4, "cursor": cursor, "recovered": true});
    json!({"type": "room_joined", "payload": payload, "metadata": {"correlation_id": "join"}}).to_string()
}

pub(crate) fn refusal(code: u16, reason: &str) -> String {
    let payload = json!({"code": code, "reason": reason, "detail": "no grant", "channel": "a"});
    json!({"type": "error", "payload": payload, "metadata": {"correlation_id": "join"}}).to_string()
}
