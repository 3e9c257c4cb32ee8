//! What came of a run: counts, the table of faults, what was wrong in words, and one last line that says whether it is
//! good. Also whether the load was itself what was slow, for it shares the machine with the servers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::board::Return;
use super::faults::Happened;
use super::publisher::Publisher;
use super::{Plan, Stage};
use crate::edge::Process;
use crate::edges::Edges;
use crate::ledger::{Entry, Faults};
use crate::nats::NatsCluster;
use crate::switching::Violations;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    happened: Vec<Happened>,
    /// How the advice to come again was spread, in a rolling restart.
    pub(super) spreads: Vec<Spread>,
    acknowledged: u64,
    delivered: u64,
    again: u64,
    duplicates: u64,
    slowest: Duration,
    pub(super) sessions: u64,
    pub(super) moves: u64,
    /// What was wrong with deliveries.
    pub(super) faults: Faults,
    pub(super) stored_twice: u64,
    pub(super) stored_lost: u64,
    pub(super) unacknowledged: u64,
    errors: Vec<(String, u64)>,
    load: Load,
    /// What came too late or too early: wrong only where there was room on the machine.
    pub(super) timing: Vec<String>,
    /// Everything that may not be, the first ones in words.
    pub violations: Violations,
    log_tails: String,
}

/// What the load itself was like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    lasted: Duration,
    /// Shares of the machine in percent: of this process, of edges and NATS, and of nobody. The rest is others'.
    own_percent: u64,
    servers_percent: u64,
    idle_percent: u64,
    /// How late a timer of this process was, in 99 of 100 cases and at worst.
    late: Duration,
    latest: Duration,
    memory_bytes: u64,
}

/// How one edge's clients were told to come again, and came.
#[derive(Debug)]
pub struct Spread {
    edge: usize,
    clients: usize,
    /// When each was to come, from the edge's being told to go; ascending. A goodbye later is advice as well.
    due: Vec<Duration>,
    /// The longest that one took beyond the advice.
    latest: Duration,
    /// Returns in the busiest second.
    busiest: usize,
}

/// Looks on while the run lasts.
pub(super) struct Watch {
    own: Duration,
    servers: Duration,
    machine: (u64, u64),
    late: Arc<Mutex<Vec<Duration>>>,
    _work: JoinSet<()>,
}

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(20);
/// A timer that is so late in one of a hundred cases means that the process does not get the CPU it wants.
const SLOW: Duration = Duration::from_millis(100);

impl Report {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            happened: Vec::new(),
            spreads: Vec::new(),
            acknowledged: 0,
            delivered: 0,
            again: 0,
            duplicates: 0,
            slowest: Duration::ZERO,
            sessions: 0,
            moves: 0,
            faults: Faults::default(),
            stored_twice: 0,
            stored_lost: 0,
            unacknowledged: 0,
            errors: Vec::new(),
            load: Load::default(),
            timing: Vec::new(),
            violations: Violations::default(),
            log_tails: String::new(),
        }
    }

    pub(super) fn happened(&mut self, happened: Vec<Happened>) {
        self.happened = happened;
    }

    pub(super) fn measured(&mut self, load: Load) {
        self.load = load;
    }

    /// Takes a publisher's account; its messages go behind those of its channel.
    pub(super) fn published(&mut self, publisher: Publisher, logs: &mut [Vec<Entry>]) {
        self.acknowledged += publisher.log.len() as u64;
        self.again += publisher.again;
        self.duplicates += publisher.duplicates;
        self.slowest = self.slowest.max(publisher.longest);
        self.violations.add_all(publisher.violations);
        logs[publisher.channel].extend(publisher.log);
    }

    pub(super) fn finish(&mut self, stage: &Stage, edges: &mut Edges) {
        self.delivered = stage.board.delivered_count();
        self.errors = stage.board.errors().into_iter().collect();
        for panic in edges.panics() {
            self.violations.add(format!("an edge panicked: {panic}"));
        }
        if !self.load.is_starved() {
            self.timing.drain(..).for_each(|late| self.violations.add(late));
        }
        if self.unacknowledged > 0 && self.violations.count == 0 {
            self.violations.add(format!("{} messages stored that nobody was told of", self.unacknowledged));
        }
        if !self.is_clean() {
            self.log_tails = edges.log_tails();
        }
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_none() && self.violations.count == 0
    }

    /// Messages per second that were acknowledged.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.load.lasted.as_secs_f64().max(1.0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, edges, nats, clients, channels, rate, .. } = &self.plan;
        writeln!(
            f,
            "\nseed {seed}: {edges} edges on {nats} NATS servers, {clients} clients, {rate} messages/s over {channels} \
             channels, {:.0} s",
            self.load.lasted.as_secs_f64()
        )?;
        writeln!(f, "{}", Happened::HEAD)?;
        for happened in &self.happened {
            writeln!(f, "{happened}")?;
        }
        for spread in &self.spreads {
            writeln!(f, "{spread}")?;
        }
        writeln!(
            f,
            "published: {} acknowledged ({:.0}/s), {} sent again, {} of them duplicates; the slowest took {:.1} s",
            self.acknowledged,
            self.rate(),
            self.again,
            self.duplicates,
            self.slowest.as_secs_f64()
        )?;
        writeln!(f, "read: {} delivered, {} sessions, {} moves", self.delivered, self.sessions, self.moves)?;
        writeln!(f, "errors: {}", list(&self.errors))?;
        writeln!(f, "{}", self.load)?;
        if self.rate() < f64::from(*rate) * 0.9 {
            writeln!(
                f,
                "  less was published than planned: stalls are part of it, or the machine is too slow"
            )?;
        }
        for late in &self.timing {
            writeln!(f, "not judged, since the machine had no room: {late}")?;
        }
        for violation in &self.violations.first {
            writeln!(f, "wrong: {violation}")?;
        }
        f.write_str(&self.log_tails)?;
        let Faults { lost, twice, disordered, chain_broken, gaps } = self.faults;
        write!(
            f,
            "test result: {}. {} acknowledged, {} delivered, {} faults; {lost} lost, {twice} twice, {disordered} out of \
             order, {chain_broken} chains broken, {gaps} gaps; {} stored twice, {} not stored, {} violations",
            if self.is_clean() { "ok" } else { "FAILED" },
            self.acknowledged,
            self.delivered,
            self.happened.len(),
            self.stored_twice,
            self.stored_lost,
            self.violations.count
        )
    }
}

fn list(counts: &[(String, u64)]) -> String {
    let each: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    each.join(", ")
}

impl Load {
    /// Whether the load did not get the CPU it wanted, so that times say more about the machine than about servers.
    fn is_starved(&self) -> bool {
        self.late > SLOW || self.idle_percent < 3
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own_percent, servers_percent, idle_percent, late, latest, memory_bytes, .. } = self;
        let others = 100_u64.saturating_sub(own_percent + servers_percent + idle_percent);
        write!(
            f,
            "machine: {own_percent} % by the load itself, {servers_percent} % by edges and NATS, {others} % by others, \
             {idle_percent} % idle; the load's timers were late by {} ms (p99), {} ms at worst; it holds {} MB",
            late.as_millis(),
            latest.as_millis(),
            memory_bytes >> 20
        )?;
        if *late > SLOW {
            write!(
                f,
                "\n  the load did not get the CPU it wanted: times above are longer than the servers'"
            )?;
        }
        Ok(())
    }
}

impl Spread {
    pub(super) fn of(edge: usize, clients: usize, came: &[Return], begun: Instant) -> Self {
        let since = |instant: Instant| instant.saturating_duration_since(begun);
        let mut due: Vec<_> = came.iter().map(|came| since(came.told + came.hint)).collect();
        due.sort_unstable();
        let beyond = came.iter().map(|came| came.after.saturating_sub(came.hint));
        let mut seconds = BTreeMap::<u64, usize>::new();
        for came in came {
            *seconds.entry(since(came.told + came.after).as_secs()).or_default() += 1;
        }
        let (latest, busiest) = (beyond.max().unwrap_or_default(), seconds.into_values().max().unwrap_or(0));
        Self { edge, clients, due, latest, busiest }
    }

    /// Whether clients are to come over at least half of the window, and nowhere half of them in half a second.
    pub(super) fn is_wide(&self, window: Duration) -> bool {
        let (Some(first), Some(last)) = (self.due.first(), self.due.last()) else { return false };
        let half_second = Duration::from_millis(500);
        let within = |from: &Duration| {
            self.due.iter().filter(|due| (*from..=*from + half_second).contains(*due)).count()
        };
        let most = self.due.iter().map(within).max().unwrap_or(0);
        last.saturating_sub(*first) >= window / 2
            && *last <= window + half_second
            && most * 2 <= self.due.len()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edge, clients, due, latest, busiest } = self;
        let at = |of: usize| due.get((due.len() * of / 100).min(due.len().saturating_sub(1)));
        let ms = |of| at(of).map_or(0, Duration::as_millis);
        write!(
            f,
            "edge {edge}: {clients} clients, {} told when to come again: {} to {} ms after it was told to go, median {}; \
             the latest was joined {} ms after its time; {busiest} in the busiest second",
            due.len(),
            ms(0),
            ms(100),
            ms(50),
            latest.as_millis()
        )
    }
}

impl Watch {
    pub(super) fn start(edges: &Edges, nats: &NatsCluster) -> Self {
        let late = Arc::<Mutex<Vec<Duration>>>::default();
        let mut work = JoinSet::new();
        let kept = Arc::clone(&late);
        work.spawn(async move {
            loop {
                let begun = Instant::now();
                sleep(TICK).await;
                kept.lock().push(begun.elapsed().saturating_sub(TICK));
            }
        });
        Self {
            own: Process::of_this_check().cpu().unwrap_or_default(),
            servers: cpu_of_servers(edges, nats),
            machine: machine(),
            late,
            _work: work,
        }
    }

    pub(super) fn stop(self, begin: Instant, edges: &Edges, nats: &NatsCluster) -> Load {
        let own = Process::of_this_check().cpu().unwrap_or_default().saturating_sub(self.own);
        let servers = cpu_of_servers(edges, nats).saturating_sub(self.servers);
        let (all, idle) = machine();
        let ticks = (all - self.machine.0).max(1);
        let mut late = std::mem::take(&mut *self.late.lock());
        late.sort_unstable();
        // Ticks of 10 ms over all cores.
        let share = |cpu: Duration| u64::try_from(cpu.as_millis() / 10).unwrap_or(0) * 100 / ticks;
        let p99 = late.get(late.len() * 99 / 100).copied().unwrap_or_default();
        Load {
            lasted: begin.elapsed(),
            own_percent: share(own),
            servers_percent: share(servers),
            idle_percent: (idle - self.machine.1) * 100 / ticks,
            late: p99,
            latest: late.last().copied().unwrap_or_default(),
            memory_bytes: Process::of_this_check().memory().map_or(0, |memory| memory.rss_bytes),
        }
    }
}

/// What edges and NATS servers have used, those that have ended among them.
fn cpu_of_servers(edges: &Edges, nats: &NatsCluster) -> Duration {
    let edges = edges.nodes.iter().filter_map(|node| node.running().ok()?.pid().ok());
    let nats = nats.nodes.iter().filter_map(|node| node.pid().ok());
    let running = edges.chain(nats).filter_map(|pid| Process::new(pid).cpu().ok());
    running.sum::<Duration>() + Process::of_this_check().cpu_of_ended_children().unwrap_or_default()
}

/// Ticks of the machine, all of them and the idle ones (proc(5), `/proc/stat`).
fn machine() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // User and nice hold guest time as well; the first eight are all there is.
    let all = ticks.iter().take(8).sum();
    (all, ticks.iter().skip(3).take(2).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_must_be_spread() {
        let begun = Instant::now();
        let spread = |hints: &[u64]| {
            let came = |ms: &u64| Return { hint: ms_of(*ms), after: ms_of(*ms + 100), told: begun };
            Spread::of(0, hints.len(), &hints.iter().map(came).collect::<Vec<_>>(), begun)
        };
        let window = Duration::from_secs(5);
        assert!(spread(&[100, 900, 1800, 2600, 3500, 4800]).is_wide(window));
        // All at once; most of them at once; beyond the window; nobody.
        for bad in [&[100, 110, 120][..], &[100, 110, 120, 4000], &[100, 900, 1800, 9000], &[]] {
            assert!(!spread(bad).is_wide(window), "{bad:?}");
        }
        assert_eq!(spread(&[100, 900, 1800]).busiest, 1 + 1);
    }

    fn ms_of(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
