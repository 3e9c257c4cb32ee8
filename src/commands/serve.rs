//! `tidegate serve`: its flags, and what has to be there before the server starts: file descriptors, in development
//! mode a certificate and a secret. `main` calls these steps one by one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::config::{Config, DEVELOPMENT_DIRECTORY, Source};
use crate::server::dev_cert;

/// What can be said on the command line about serving.
#[derive(Args)]
#[command(after_help = "\
Examples:
  tidegate serve                                     development mode, on https://localhost:8443
  tidegate serve --config tidegate.toml
  tidegate serve --listen 127.0.0.1:9000 --set log.format=json --set channels.chat.history_size=500

`tidegate default-config` lists every setting. SIGTERM and SIGINT drain: clients are told to come back at
different moments; a second signal ends at once.")]
pub struct Flags {
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration file; without one it is development mode [env: TIDEGATE_CONFIG]"
    )]
    config: Option<PathBuf>,
    /// Where clients connect, listen.addr
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where operators look, listen.admin
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// Any setting; can be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl Flags {
    /// Where the configuration comes from: these flags, and the environment of this process.
    pub fn into_source(self) -> Source {
        let short = [("listen.addr", self.listen), ("listen.admin", self.admin)];
        let short = short.into_iter().filter_map(|(key, addr)| Some((key.to_owned(), addr?.to_string())));
        Source::of_process(self.config, self.set.into_iter().chain(short).collect())
    }
}

/// Says aloud what is allowed but rarely meant, above all development mode.
pub fn announce(config: &Config) {
    if config.development {
        tracing::warn!(
            "DEVELOPMENT MODE: no configuration file, so everyone on this machine may join and send everywhere; \
             to serve others: tidegate default-config > tidegate.toml, then --config tidegate.toml"
        );
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// Raises the limit of open files as far as the system allows: each connection needs one.
pub fn raise_open_files(config: &Config) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => {
            tracing::info!(limit, "open files");
            // Listeners, certificates, logs, and what the runtime holds.
            let needed = config.listen.max_connections as u64 + 64;
            if limit < needed && !config.development {
                tracing::warn!(
                    "listen.max_connections = {} needs {needed} open files and the system allows {limit}: raise it \
                     (ulimit -n, LimitNOFILE=), or set fewer connections",
                    config.listen.max_connections
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// Makes what development needs and is missing: the certificate where no other is configured, the secret where
/// there is no configuration file.
///
/// # Errors
/// [`Failure::Development`]
pub fn provide_development_files(config: &mut Config) -> Result<(), Failure> {
    let directory = Path::new(DEVELOPMENT_DIRECTORY);
    if config.tls.enabled && config.tls.is_development() && dev_cert::ensure_certificate(directory)? {
        tracing::info!("made a certificate for localhost: {}", config.tls.cert.display());
    }
    if config.development && config.auth.hs256_secret.is_none() {
        let (secret, new) = dev_cert::secret(directory)?;
        if new {
            tracing::info!("made a secret for development tokens: {DEVELOPMENT_DIRECTORY}/dev.secret");
        }
        config.auth.hs256_secret = Some(secret);
    }
    Ok(())
}

fn assignment(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("must be section.key=value, such as limits.message_bytes=131072"),
    }
}
