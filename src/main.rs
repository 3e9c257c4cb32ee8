//! The `tidegate` binary: parses the command line, and for `serve` goes from configuration to logs to files to the
//! server, which comes back when it is drained. Everything else is in `tidegate::commands`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use tidegate::commands::{self, Command, CommandLine, Failure, serve};
use tidegate::config::{self, Config, Log, LogFormat};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Of the allocators that were measured it holds the least per idle connection.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.into_command(),
        Err(usage_or_help) => {
            // To a terminal that is gone there is nothing more to say.
            let _ = usage_or_help.print();
            return ExitCode::from(u8::try_from(usage_or_help.exit_code()).unwrap_or(2));
        }
    };
    match command {
        Command::Serve(flags) => start(flags),
        Command::Tool(tool) => exit(commands::run(tool)),
    }
}

fn start(flags: serve::Flags) -> ExitCode {
    let config = match config::load(&flags.into_source()) {
        Ok(config) => config,
        Err(error) => return exit(Err(error.into())),
    };
    begin_logs(&config.log);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mut config: Config) -> anyhow::Result<()> {
    serve::announce(&config);
    serve::raise_open_files(&config);
    serve::provide_development_files(&mut config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(tidegate::server::run(Arc::new(config)))?;
    Ok(())
}

fn begin_logs(log: &Log) {
    let mut levels: Targets =
        log.level.parse().expect("the configuration admits only levels, alone or by module");
    // The bus says itself what its client meets; the client says it of every attempt, as an error.
    if !log.level.contains("async_nats") {
        levels = levels.with_target("async_nats", LevelFilter::OFF);
    }
    let mut lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // On a terminal NO_COLOR still decides.
    if !std::io::stderr().is_terminal() {
        lines.set_ansi(false);
    }
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
}

fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidegate: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
