//! `h2spec`: starts the edge behind TLS, runs the suite of that name against it, and compares its verdicts with
//! `h2spec/expected.txt`. Exit code 1 when they differ in either direction.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use conformance::edge::{Edge, Settings};
use conformance::h2spec;
use conformance::wire::{Connection, Request};

/// Runs h2spec against the edge.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The suite's binary.
    #[arg(long, default_value = "h2spec")]
    h2spec: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let expected = include_str!("../../h2spec/expected.txt");
    let expected = h2spec::expectations(expected)
        .map_err(|line| anyhow::anyhow!("expected.txt: not `section | case | reason`: {line}"))?;
    // The suite has no token.
    let settings = Settings::open()
        .over_tls()
        .set("auth.mode", "optional")
        .set("channels.default.join", "anyone")
        .set("channels.default.send", "anyone");
    let mut edge = Edge::start(&settings).await?;
    let folder = tempfile::tempdir()?;
    let first = Connection::open(&edge.target)
        .await?
        .exchange(&Request::get("/v1/poll?channels=h2spec-states"))
        .await?;
    let cursor = first.json()?["cursor"].as_str().context("a poll has a cursor")?.to_owned();
    // Nothing is published in this channel, so the poll lasts.
    let slow = format!("/v1/poll?channels=h2spec-states&wait=1&cursor={cursor}");
    let verdicts = h2spec::run(&arguments.h2spec, edge.target.addr, &slow, folder.path())
        .with_context(|| format!("{} does not run", arguments.h2spec.display()))?;
    let mut problems = h2spec::compare(&verdicts, &expected);
    if !edge.is_alive() || !edge.panics().is_empty() {
        problems.push(format!("the edge has failed:\n{}", edge.log_tail()));
    }
    let passed = verdicts.values().filter(|passed| **passed).count();
    eprintln!("h2spec: {passed} of {} cases pass, {} are excused", verdicts.len(), expected.len());
    for problem in &problems {
        eprintln!("h2spec: {problem}");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
