//! Signals to processes that a check has started, by process id: how servers are frozen, ended and told to go. It
//! goes through the system's `kill`, and never signals anybody by name.

use std::io;
use std::process::Command;

/// What a process is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: an operator's goodbye.
    Terminate,
    /// SIGKILL: gone without a word.
    Kill,
    /// SIGSTOP: there, and deaf.
    Stop,
    /// SIGCONT: as if no time had passed.
    Continue,
}

/// Sends it.
///
/// # Errors
/// When there is no `kill`, or no such process.
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let name = match signal {
        Signal::Terminate => "-TERM",
        Signal::Kill => "-KILL",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
    };
    let status = Command::new("kill").args([name, &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill {name} {pid}: {status}"))) }
}
