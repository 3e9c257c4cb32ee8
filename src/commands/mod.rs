//! The command line: one file per command, each with its flags and what it does. Called by `main`; the commands
//! that talk to an edge are clients like any other and know the wire, not the server's insides.

pub mod check_config;
mod client;
pub mod default_config;
pub mod healthcheck;
pub mod publish;
pub mod revoke;
pub mod serve;
pub mod subscribe;
pub mod token;

use std::future::Future;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Source};
use crate::server::dev_cert::DevCertError;
pub use client::ClientError;

/// One channel model over WebSocket, Server-Sent Events and long polling.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Flags,
}

const EXAMPLES: &str = "\
Without a command it serves. Without a configuration file that is development mode: reachable from this
machine only, open to everyone, with a certificate of its own.

Examples:
  tidegate                                             serve on https://localhost:8443
  tidegate subscribe chat:lobby                        print what comes
  tidegate publish chat:lobby '{\"text\": \"hello\"}'      send something
  tidegate default-config > tidegate.toml              a configuration to start from
  tidegate serve --config tidegate.toml                serve for real

Settings come from flags, then TIDEGATE_SECTION__KEY, then the file that --config or TIDEGATE_CONFIG names.
Exit codes: 0 fine, 1 failed, 2 wrong usage.";

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM or SIGINT (what happens without a command)
    Serve(serve::Flags),
    /// Anything else
    #[command(flatten)]
    Tool(Tool),
}

/// What is done once and does not serve.
#[derive(Subcommand)]
pub enum Tool {
    /// Say whether a configuration is fine, and what it opens to whom
    CheckConfig(check_config::Flags),
    /// Print every setting with its meaning, at its default
    DefaultConfig,
    /// Print a token, signed with the configured or the development secret
    Token(token::Flags),
    /// Send one message to a channel
    Publish(publish::Flags),
    /// Print what comes in on channels, and come back after a loss without missing anything
    Subscribe(subscribe::Flags),
    /// Take tokens back before they run out, on every node
    Revoke(revoke::Flags),
    /// Ask an edge on this machine whether it is ready
    Healthcheck(healthcheck::Flags),
}

impl CommandLine {
    /// What to do; serve, if nothing else was said.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// Which configuration a command reads.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigFlags {
    /// The file; without one it is development mode.
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration file; without one it is development mode [env: TIDEGATE_CONFIG]"
    )]
    pub config: Option<PathBuf>,
}

/// Why a command failed: one sentence, fit to be printed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Flags or variables make no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The development certificate or secret cannot be had.
    #[error(transparent)]
    Development(#[from] DevCertError),
    /// A file that the configuration names is missing or wrong.
    #[error("{key} = {file:?} {problem}")]
    File {
        /// The setting.
        key: &'static str,
        /// What it names.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The edge could not be talked to, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The edge says that it is not ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The token cannot be signed.
    #[error(transparent)]
    Sign(#[from] crate::auth::SignError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure {
    /// What the process ends with: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Config(error) if error.is_usage() => 2,
            _ => 1,
        }
    }
}

/// Does what is not serving.
///
/// # Errors
/// [`Failure`], in words for whoever typed the command.
pub fn run(tool: Tool) -> Result<(), Failure> {
    match tool {
        Tool::CheckConfig(flags) => check_config::run(&flags),
        Tool::DefaultConfig => default_config::run(),
        Tool::Token(flags) => token::run(flags),
        Tool::Publish(flags) => on_one_thread(publish::run(flags)),
        Tool::Subscribe(flags) => on_one_thread(subscribe::run(flags)),
        Tool::Revoke(flags) => on_one_thread(revoke::run(flags)),
        Tool::Healthcheck(flags) => on_one_thread(healthcheck::run(flags)),
    }
}

fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { what: "cannot start", source })?;
    let done = runtime.block_on(command);
    // A write to a terminal that nobody reads must not hold up Ctrl-C.
    runtime.shutdown_background();
    done
}

/// Prints to standard output; a reader that has enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::System { what: "cannot write to standard output", source })
        }
        _ => Ok(()),
    }
}

impl ConfigFlags {
    fn source(&self) -> Source {
        Source::of_process(self.config.clone(), Vec::new())
    }
}
