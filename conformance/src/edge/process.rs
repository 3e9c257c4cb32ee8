//! What the server's process costs, as the kernel accounts for it (proc(5)); the same for this very process, so that
//! a measurement can tell whether it measured itself. Read only; it never signals anybody.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A process that is watched.
#[derive(Clone, Debug)]
pub struct Process {
    root: PathBuf,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "sizes say their unit")]
pub struct Memory {
    /// Resident, shared pages included (`Rss` of `smaps_rollup`).
    pub rss_bytes: u64,
    /// Resident, shared pages in proportion (`Pss`).
    pub pss_bytes: u64,
    /// Resident and written to by this process alone (`Private_Dirty`): what the heap really holds.
    pub dirty_bytes: u64,
}

impl Process {
    /// The process with that id.
    pub fn new(pid: u32) -> Self {
        Self { root: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// This process.
    pub fn of_this_check() -> Self {
        Self { root: PathBuf::from("/proc/self") }
    }

    /// Its id, unless it is this process.
    pub fn id(&self) -> Option<u32> {
        self.root.file_name()?.to_str()?.parse().ok()
    }

    /// Its memory.
    ///
    /// # Errors
    /// When the process is gone, or belongs to somebody else.
    pub fn memory(&self) -> io::Result<Memory> {
        let text = fs::read_to_string(self.root.join("smaps_rollup"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("smaps_rollup has no {name}")))
        };
        Ok(Memory {
            rss_bytes: field("Rss")?,
            pss_bytes: field("Pss")?,
            dirty_bytes: field("Private_Dirty")?,
        })
    }

    /// CPU time it has used, in user and kernel, of all its threads. Steps of 10 ms.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.ticks(11)
    }

    /// CPU time that those of its children have used that have ended and were waited for. Steps of 10 ms.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_of_ended_children(&self) -> io::Result<Duration> {
        self.ticks(13)
    }

    /// Two neighbouring fields of `stat`, user and system time, counted from the one behind the program's name.
    fn ticks(&self, index: usize) -> io::Result<Duration> {
        /// `USER_HZ`, which Linux has fixed at 100 for what it shows (proc(5), time(7)).
        const TICK: Duration = Duration::from_millis(10);
        let text = fs::read_to_string(self.root.join("stat"))?;
        // The second field is the program's name in parentheses, which may hold anything.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u32>().ok());
        let (user, system) =
            ticks(index).zip(ticks(index + 1)).ok_or_else(|| io::Error::other("stat has no such times"))?;
        Ok(TICK * (user + system))
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// When the process is gone, or belongs to somebody else.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(self.root.join("fd"))?.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_files() {
        let this = Process::of_this_check();
        let memory = this.memory().unwrap();
        assert!(memory.rss_bytes >= memory.dirty_bytes && memory.dirty_bytes > 0);
        assert!(this.cpu().unwrap() < Duration::from_hours(1));
        assert!(this.descriptors().unwrap() >= 3);
        assert!(Process::new(u32::MAX).memory().is_err());
    }
}
