//! What a load costs: CPU time and memory of a server with all of its processes, of this program, and of whoever else
//! keeps the machine busy, as the kernel accounts for them (proc(5)). It says when a figure is not to be believed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::edge::{Memory, Process};

/// A process with all that it started.
#[derive(Clone, Debug)]
pub struct Family {
    root: u32,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// All of it, in nanoseconds.
    total: u64,
    /// In user mode, in ticks.
    user: u64,
    /// In the kernel, in ticks.
    system: u64,
}

/// Begun measurements.
pub struct Meter<'a> {
    server: Option<&'a Family>,
    begun: Instant,
    server_before: Spent,
    thread_before: u64,
    own_before: Spent,
    machine_before: u64,
}

/// What was spent between two moments.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// How long it was.
    pub seconds: f64,
    /// CPU time of the server, in user mode.
    pub server_user_seconds: f64,
    /// CPU time of the server in the kernel.
    pub server_system_seconds: f64,
    /// CPU time of this program.
    pub load_seconds: f64,
    /// CPU time of its one thread that reads all deliveries.
    pub reader_seconds: f64,
    /// CPU time of everybody else on this machine.
    pub others_seconds: f64,
    /// CPUs of the machine.
    pub cpus: usize,
}

/// `USER_HZ`, which Linux has fixed at 100 for what it shows (proc(5), time(7)).
const TICKS_PER_SECOND: u64 = 100;
/// The share of a core from which on a thread counts as busy with no pause.
const BUSY: f64 = 0.9;

impl Family {
    /// The process with that id and its children, whenever they come.
    pub fn new(root: u32) -> Self {
        Self { root }
    }

    /// Their ids, the first one's first.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn members(&self) -> io::Result<Vec<u32>> {
        let mut children = BTreeMap::<u32, Vec<u32>>::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // One that is gone by now is nobody's child.
            if let Some(parent) = stat(pid).ok().and_then(|fields| fields.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut members = vec![self.root];
        let mut next = 0;
        while let Some(pid) = members.get(next) {
            members.extend(children.remove(pid).into_iter().flatten());
            next += 1;
        }
        Ok(members)
    }

    /// Their memory together.
    ///
    /// # Errors
    /// When one is gone, or belongs to somebody else.
    pub fn memory(&self) -> io::Result<Memory> {
        let mut sum = Memory::default();
        for pid in self.members()? {
            let one = Process::new(pid).memory()?;
            sum.rss_bytes += one.rss_bytes;
            sum.pss_bytes += one.pss_bytes;
            sum.dirty_bytes += one.dirty_bytes;
        }
        Ok(sum)
    }

    fn spent(&self) -> io::Result<Spent> {
        let mut sum = Spent::default();
        for pid in self.members()? {
            let fields = stat(pid)?;
            let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
            let (user, system) =
                ticks(11).zip(ticks(12)).ok_or_else(|| io::Error::other("stat has no utime and stime"))?;
            sum.user += user;
            sum.system += system;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread that ends in between takes its time with it; servers keep theirs.
                sum.total += fs::read_to_string(task?.path().join("schedstat")).map_or(0, |text| run(&text));
            }
        }
        Ok(sum)
    }
}

impl<'a> Meter<'a> {
    /// Begins; the thread that calls is the one that reads deliveries.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn start(server: Option<&'a Family>) -> io::Result<Self> {
        Ok(Self {
            server,
            begun: Instant::now(),
            server_before: server.map(Family::spent).transpose()?.unwrap_or_default(),
            thread_before: this_thread()?,
            own_before: Family::new(std::process::id()).own()?,
            machine_before: machine()?.0,
        })
    }

    /// Ends, on the same thread.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn stop(self) -> io::Result<Cost> {
        let server = self.server.map(Family::spent).transpose()?.unwrap_or_default();
        let server = server.since(self.server_before);
        let own = Family::new(std::process::id()).own()?.since(self.own_before);
        let (busy, cpus) = machine()?;
        // The kernel tells user from system in ticks, and all of it in nanoseconds.
        let ticks = server.user + server.system;
        let user = if ticks == 0 { 0.0 } else { precise(server.user) / precise(ticks) };
        let seconds = |nanos: u64| precise(nanos) / 1e9;
        let (total, load) = (seconds(server.total), seconds(own.total));
        let machine = precise(busy.saturating_sub(self.machine_before)) / precise(TICKS_PER_SECOND);
        Ok(Cost {
            seconds: self.begun.elapsed().as_secs_f64(),
            server_user_seconds: total * user,
            server_system_seconds: total * (1.0 - user),
            load_seconds: load,
            reader_seconds: seconds(this_thread()?.saturating_sub(self.thread_before)),
            others_seconds: (machine - total - load).max(0.0),
            cpus,
        })
    }
}

impl Cost {
    /// CPU time of the server.
    pub fn server_seconds(&self) -> f64 {
        self.server_user_seconds + self.server_system_seconds
    }

    /// Adds what was spent another time.
    pub(super) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.server_user_seconds += other.server_user_seconds;
        self.server_system_seconds += other.server_system_seconds;
        self.load_seconds += other.load_seconds;
        self.reader_seconds += other.reader_seconds;
        self.others_seconds += other.others_seconds;
    }

    /// Whether others kept the machine so busy that the figures are theirs too.
    pub fn is_disturbed(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 CPUs")]
        let all = self.seconds * self.cpus as f64;
        self.others_seconds > 0.1 * all
    }

    /// Why the figures beside it say less about the server than they seem to; nothing when they may be believed.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let share = |spent: f64| spent / self.seconds.max(0.001);
        let percent = |spent: f64| format!("{:.0} %", share(spent) * 100.0);
        if share(self.reader_seconds) > BUSY && share(self.server_seconds()) < BUSY {
            doubts.push(format!(
                "the load tool was the bottleneck: its reader used {} of a core, the server {}",
                percent(self.reader_seconds),
                percent(self.server_seconds())
            ));
        }
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 CPUs")]
        let cpus = self.cpus as f64;
        if share(self.server_seconds() + self.load_seconds) > BUSY * cpus {
            doubts.push(format!(
                "the machine was full: the load tool used {} of a core beside the server's {}",
                percent(self.load_seconds),
                percent(self.server_seconds())
            ));
        }
        if self.is_disturbed() {
            doubts.push(format!("others used {} of a core", percent(self.others_seconds)));
        }
        doubts
    }
}

impl Spent {
    fn since(self, before: Self) -> Self {
        Self {
            total: self.total.saturating_sub(before.total),
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl Family {
    /// Of this one process without its children, threads that have ended included: it makes and ends some, and a
    /// server that it started is not its own work.
    fn own(&self) -> io::Result<Spent> {
        let fields = stat(self.root)?;
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let (user, system) = (ticks(11), ticks(12));
        Ok(Spent { total: (user + system) * (1_000_000_000 / TICKS_PER_SECOND), user, system })
    }
}

/// The fields of a process's stat, from its state on.
fn stat(pid: u32) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, which may hold anything.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// Nanoseconds on a CPU, the first field of a schedstat.
fn run(schedstat: &str) -> u64 {
    schedstat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn this_thread() -> io::Result<u64> {
    fs::read_to_string("/proc/thread-self/schedstat").map(|text| run(&text))
}

/// Ticks that all CPUs were busy, and how many CPUs there are.
fn machine() -> io::Result<(u64, usize)> {
    let text = fs::read_to_string("/proc/stat")?;
    let numbers: Vec<u64> = text
        .lines()
        .next()
        .map(|line| line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect())
        .unwrap_or_default();
    // user nice system (idle iowait) irq softirq; time that the hypervisor took is nobody's.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|index| numbers.get(*index)).sum();
    let cpus = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    Ok((busy, cpus.max(1)))
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds and counts below 2^52")]
pub(super) fn precise(count: u64) -> f64 {
    count as f64
}

/// A duration in milliseconds.
pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_and_sleep_is_not() {
        let family = Family::new(std::process::id());
        let meter = Meter::start(Some(&family)).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(60) {
            std::hint::black_box(family.members().unwrap());
        }
        let cost = meter.stop().unwrap();
        assert!(cost.reader_seconds > 0.02 && cost.reader_seconds < cost.seconds + 0.01, "{cost:?}");
        assert!(cost.server_seconds() >= cost.reader_seconds * 0.9 && cost.cpus >= 1, "{cost:?}");
        assert!(family.memory().unwrap().pss_bytes > 0);
    }

    #[test]
    fn a_figure_that_is_not_the_servers_is_said() {
        let quiet = Cost { seconds: 10.0, server_user_seconds: 3.0, cpus: 2, ..Cost::default() };
        assert!(quiet.doubts().is_empty());
        let reader = Cost { reader_seconds: 9.8, load_seconds: 9.9, ..quiet.clone() };
        assert!(reader.doubts()[0].contains("bottleneck"));
        let noisy = Cost { others_seconds: 5.0, ..quiet.clone() };
        assert_eq!(noisy.doubts(), ["others used 50 % of a core"]);
        let full = Cost { server_system_seconds: 8.0, load_seconds: 8.0, reader_seconds: 8.0, ..quiet };
        assert!(full.doubts()[0].contains("machine was full"));
    }
}
