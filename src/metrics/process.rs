//! What the kernel knows of this process, under the names that every Prometheus client library uses: read from
//! `/proc/self` at each scrape. What can't be read (another system, a locked-down `/proc`) is left out, never 0.

use std::fmt;
use std::fs;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// This process, as a scrape sees it.
#[derive(Debug)]
pub(super) struct Process {
    ticks_per_second: Option<u64>,
    /// Since the Unix epoch. Kept from the start: the kernel's boot time moves when the clock is set.
    started: Option<Duration>,
}

impl Process {
    /// Looks up what does not change.
    pub(super) fn new() -> Self {
        let ticks_per_second = fs::read("/proc/self/auxv").ok().and_then(|auxv| ticks_per_second(&auxv));
        let started = ticks_per_second.and_then(|ticks_per_second| {
            let boot = boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
            let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
            Some(boot + in_seconds(stat.start_ticks, ticks_per_second))
        });
        Self { ticks_per_second, started }
    }

    fn cpu(&self) -> Option<Duration> {
        let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
        Some(in_seconds(stat.cpu_ticks, self.ticks_per_second?))
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(cpu) = self.cpu() {
            let help = "Processor time used, user and system.";
            counter(&mut encoder, "process_cpu", help, &Unit::Seconds, cpu.as_secs_f64())?;
        }
        if let Some(bytes) = resident_bytes() {
            let help = "Memory that is in RAM.";
            gauge(&mut encoder, "process_resident_memory", help, Some(&Unit::Bytes), bytes)?;
        }
        if let Some(open) = open_fds() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors.", None, open)?;
        }
        if let Some(max) = max_fds() {
            gauge(&mut encoder, "process_max_fds", "File descriptors it may open.", None, max)?;
        }
        if let Some(started) = self.started {
            let help = "When the process began, since the Unix epoch.";
            gauge(&mut encoder, "process_start_time", help, Some(&Unit::Seconds), started.as_secs_f64())?;
        }
        Ok(())
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: &Unit,
    value: f64,
) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, Some(unit), counter.metric_type())?)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn open_fds() -> Option<u64> {
    // Linux 6.2 says the number as the directory's size: with 100,000 connections a listing would take long.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => {
            let listed = fs::read_dir("/proc/self/fd").ok()?.count();
            u64::try_from(listed).ok()?.checked_sub(1) // the listing's own
        }
        open => Some(open),
    }
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `AT_CLKTCK` of the auxiliary vector: pairs of words in native order (`getauxval(3)`).
fn ticks_per_second(auxv: &[u8]) -> Option<u64> {
    const AT_CLKTCK: usize = 17;
    const WORD: usize = size_of::<usize>();
    let mut words = auxv
        .chunks_exact(WORD)
        .map(|word| usize::from_ne_bytes(word.try_into().expect("a chunk has the size of a word")));
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        if key == AT_CLKTCK {
            return u64::try_from(value).ok().filter(|&ticks| ticks > 0);
        }
    }
    None
}

fn boot_time(stat: &str) -> Option<Duration> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

fn in_seconds(ticks: u64, ticks_per_second: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second)
}

/// Fields of `/proc/self/stat` (`proc_pid_stat(5)`).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // Field 2 is the program's name in parentheses and may hold anything, so what follows begins with field 3.
        let (_, after_name) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 99 0 0 0 250 50 0 0 20 0 3 0 4321 1000 25 1";
        assert_eq!(Stat::parse(stat), Some(Stat { cpu_ticks: 300, start_ticks: 4321 }));
        assert_eq!(Stat::parse("7 (cut) S 1 7"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn auxiliary_vector_is_pairs_of_words() {
        let auxv: Vec<u8> =
            [6, 4096, 17, 100, 0, 0].iter().flat_map(|word: &usize| word.to_ne_bytes()).collect();
        assert_eq!(ticks_per_second(&auxv), Some(100));
        assert_eq!(ticks_per_second(&auxv[..3 * size_of::<usize>()]), None, "cut off after the key");
        assert_eq!(in_seconds(1234, 100), Duration::from_millis(12_340));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let process = Process::new();
        let started = process.started.unwrap();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let age = now.abs_diff(started);
        assert!(age < Duration::from_hours(1), "{started:?} is not about now, {now:?}");
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(max_fds().unwrap() >= 64);
        let spinning = std::time::Instant::now();
        while process.cpu().unwrap() < Duration::from_millis(20) {
            assert!(spinning.elapsed() < Duration::from_secs(30), "processor time does not rise");
        }
        // Other tests open and close files meanwhile: many more than they could have.
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(open_fds().unwrap() > 200);
        drop(files);
    }
}
