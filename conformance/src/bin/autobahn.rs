//! `autobahn`: the Autobahn test suite against an edge that it starts itself, once over `ws://` and once over
//! `wss://`. A table per section on standard output, then one line that says it all; exit code 1 when anything is not
//! as `conformance/autobahn/expected.json` says.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use conformance::autobahn::{self, Agent, Expected, Pattern, Plan, Suite, Verdict};
use conformance::edge::{Edge, Settings};

/// Above the 16 MB of the suite's largest message.
const MESSAGE_BYTES: u64 = 64 << 20;

/// Runs the Autobahn test suite against an edge.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Which cases: `6.4.3`, `9.*`, `1.*.8`; may come again. All of them unless told.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', conflicts_with = "smoke")]
    cases: Vec<Pattern>,
    /// The selection that takes less than three minutes.
    #[arg(long)]
    smoke: bool,
    /// Over which of the two; both unless told.
    #[arg(long, value_delimiter = ',')]
    over: Vec<Scheme>,
    /// An echo that runs already, as ws://HOST:PORT/PATH or wss://; may come again. No edge is started.
    #[arg(long, conflicts_with = "over")]
    url: Vec<String>,
    /// Run nothing: judge the reports in that folder.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["url", "over", "suite", "reports", "minutes"])]
    judge: Option<PathBuf>,
    /// Where the suite is, or is to be installed. `target/autobahn` unless told.
    #[arg(long, value_name = "FOLDER")]
    suite: Option<PathBuf>,
    /// Where the reports go. `target/autobahn/reports` unless told.
    #[arg(long, value_name = "FOLDER")]
    reports: Option<PathBuf>,
    /// How long the suite may take, for each of the two.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scheme {
    Ws,
    Wss,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let expected = Expected::of_the_project()?;
    let patterns = match &arguments {
        Arguments { smoke: true, .. } => expected.smoke(),
        Arguments { cases, .. } if !cases.is_empty() => cases,
        _ => &["*".parse()?],
    };
    let cases = Plan::choose(&expected, patterns)
        .map_err(|pattern| anyhow::anyhow!("none of the suite's cases is {pattern}"))?;

    let begun = Instant::now();
    let mut problems = Vec::new();
    let verdicts = if let Some(folder) = &arguments.judge {
        autobahn::judge(folder, &cases, &expected)?
    } else {
        let home = home()?;
        let suite = Suite::find_or_install(arguments.suite.as_deref().unwrap_or(&home)).await?;
        let folder = arguments.reports.clone().unwrap_or_else(|| home.join("reports"));
        let plan = Plan { cases, folder, within: Duration::from_mins(arguments.minutes) };
        let mut verdicts = Vec::new();
        if arguments.url.is_empty() {
            let both = [Scheme::Ws, Scheme::Wss];
            for scheme in
                both.into_iter().filter(|scheme| arguments.over.is_empty() || arguments.over.contains(scheme))
            {
                verdicts.push(of_our_own(&suite, scheme, &plan, &expected, &mut problems).await?);
            }
        }
        for (nth, url) in arguments.url.iter().enumerate() {
            let agent = Agent { name: format!("url{}", nth + 1), url: url.clone() };
            verdicts.push(autobahn::check(&suite, &agent, &plan, &expected, || true).await?);
        }
        println!("reports: {}/*/index.html", plan.folder.display());
        verdicts
    };
    Ok(say(&verdicts, &problems, begun.elapsed()))
}

/// Starts an edge, runs the plan against its echo, and looks whether it has got over it.
async fn of_our_own(
    suite: &Suite,
    scheme: Scheme,
    plan: &Plan,
    expected: &Expected,
    problems: &mut Vec<String>,
) -> anyhow::Result<Verdict> {
    let name = match scheme {
        Scheme::Ws => "ws",
        Scheme::Wss => "wss",
    };
    let mut edge = Edge::start(&settings(scheme)).await?;
    let agent = Agent { name: name.into(), url: format!("{name}://{}/echo", edge.target.addr) };
    let verdict = autobahn::check(suite, &agent, plan, expected, || edge.is_alive()).await;
    let verdict =
        verdict.with_context(|| format!("over {name}; the edge's log ends so:\n{}", edge.log_tail()))?;
    problems.extend(edge.panics().into_iter().map(|line| format!("{name}: the edge has panicked: {line}")));
    if let Err(error) = edge.livez().await {
        problems.push(format!("{name}: the edge does not live any more: {error}\n{}", edge.log_tail()));
    }
    Ok(verdict)
}

/// An edge that echoes whatever the suite sends, for as long as it likes.
fn settings(scheme: Scheme) -> Settings {
    let settings = Settings::open()
        .set("auth.mode", "optional")
        .set("conformance.echo", true)
        .set("limits.message_bytes", MESSAGE_BYTES)
        .set("limits.queue_bytes", MESSAGE_BYTES)
        .set("limits.write_timeout", "60s")
        // The configuration wants room for one message in every log.
        .set("channels.default.history_bytes", MESSAGE_BYTES);
    if scheme == Scheme::Wss { settings.over_tls() } else { settings }
}

/// Prints the tables and the line that says it all.
fn say(verdicts: &[Verdict], problems: &[String], elapsed: Duration) -> ExitCode {
    for verdict in verdicts {
        println!("\n{verdict}");
    }
    for problem in problems {
        println!("{problem}");
    }
    let failed: usize = verdicts.iter().map(|verdict| verdict.findings.len()).sum::<usize>() + problems.len();
    let of = verdicts.iter().map(|verdict| format!("{} over {}", verdict.cases, verdict.agent));
    let of = of.collect::<Vec<_>>().join(", ");
    let seconds = elapsed.as_secs_f64();
    // `./test` looks for this line.
    if failed > 0 || verdicts.is_empty() {
        println!("{failed} failed of Autobahn's cases ({of}) in {seconds:.1} s");
        return ExitCode::FAILURE;
    }
    let passed: usize = verdicts.iter().map(|verdict| verdict.cases).sum();
    println!("{passed} passed of Autobahn's cases ({of}) in {seconds:.1} s");
    ExitCode::SUCCESS
}

/// `target/autobahn`, beside what Cargo has built.
fn home() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let target =
        this.parent().and_then(|profile| profile.parent()).context("this program is in no target folder")?;
    Ok(target.join("autobahn"))
}
