//! Where and when a run was: without it no figure means anything to somebody else.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::load::Tools;

/// A machine at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Of its processor.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
    /// In MB.
    pub memory_mb: u64,
    /// The kernel's release.
    pub kernel: String,
    /// How many files one process may have open.
    pub open_files: u64,
    /// What else was running when it began: the load average of the last minute.
    pub load_before: f64,
    /// The day, UTC.
    pub date: String,
}

impl Machine {
    /// This one, now.
    pub fn now(open_files: u64) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mb: memory.split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            open_files,
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            date: today(),
        }
    }
}

/// What the servers call themselves; a missing one is missing here too.
pub fn versions(tools: &Tools) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut ask = |name: &str, program: &str, arguments: &[&str]| {
        let Ok(output) = Command::new(program).args(arguments).output() else { return };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().lines().next().unwrap_or_default().to_owned();
        if !said.is_empty() {
            versions.insert(name.to_owned(), said);
        }
    };
    ask("nginx", "nginx", &["-v"]);
    ask("Nchan", "dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-nchan"]);
    ask("Node", "node", &["--version"]);
    let venv = |program: &str| tools.venv.join("bin").join(program).to_string_lossy().into_owned();
    ask("nats-server", &venv("nats-server"), &["--version"]);
    let socketify = "import importlib.metadata; print(importlib.metadata.version('socketify'))";
    ask("uWebSockets (socketify)", &venv("python"), &["-c", socketify]);
    for package in ["ws", "socket.io"] {
        let file = tools.peers.join("node_modules").join(package).join("package.json");
        let text = fs::read(file).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        if let Some(version) = manifest["version"].as_str() {
            versions.insert(package.to_owned(), version.to_owned());
        }
    }
    versions
}

/// The date of UTC, by the calendar of days since 1970 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(i64::try_from(seconds / 86_400).unwrap_or(0))
}

fn date(days: i64) -> String {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    // March is the first month.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + i64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (days, expected) in
            [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_779, "2026-11-22"), (59, "1970-03-01")]
        {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn this_machine_has_a_processor() {
        let machine = Machine::now(1024);
        assert!(machine.cpus >= 1 && machine.memory_mb > 100 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
