//! The one connection of this node to NATS: who it says it is, how it is encrypted, how it comes back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::NatsError;
use super::health::Health;
use crate::config::Bus as Settings;

/// How long a node that starts waits for NATS to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pings: three that are not answered end the connection, so a server that is frozen or cut off is left in 6 s.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest pause between two attempts to come back.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Messages that wait for this node to look at them, per subscription; more are lost here and fetched again.
const SUBSCRIPTION_CAPACITY: usize = 8192;

/// Connects; `doubt` is notified when messages may have been missed.
///
/// # Errors
/// [`NatsError`] when NATS refuses this node, or is not there for 20 s.
pub(super) async fn connect(
    settings: &Settings,
    health: &Arc<Health>,
    doubt: &Arc<Notify>,
) -> Result<Client, NatsError> {
    let until = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let servers: Vec<String> = settings.servers().collect();
        let error = match options(settings, health, doubt).await?.connect(servers).await {
            Ok(client) => {
                health.set_connected(true);
                let server = client.server_info();
                info!(server = %server.server_name, version = %server.version, "connected to NATS");
                return Ok(client);
            }
            Err(error) => error,
        };
        let hopeless = matches!(
            error.kind(),
            ConnectErrorKind::Authentication
                | ConnectErrorKind::AuthorizationViolation
                | ConnectErrorKind::ServerParse
                | ConnectErrorKind::Tls
        ) || is_about_tls(&error);
        if hopeless || Instant::now() >= until {
            return Err(NatsError::Connect { servers: settings.servers_shown(), problem: innermost(&error) });
        }
        if !told {
            warn!("NATS is not there; waiting for it: {error}");
            told = true;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn options(
    settings: &Settings,
    health: &Arc<Health>,
    doubt: &Arc<Notify>,
) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new()
        .name("tidegate")
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .max_reconnects(None)
        .reconnect_delay_callback(pause_before)
        // Subjects are made from checked names: to check each again costs every publish.
        .skip_subject_validation(true);
    let (health, doubt) = (Arc::clone(health), Arc::clone(doubt));
    options = options.event_callback(move |event| {
        on_event(&event, &health, &doubt);
        std::future::ready(())
    });
    let file = |key: &'static str, path: &Path| {
        std::fs::metadata(path).map(|_| path.to_owned()).map_err(|source| NatsError::File {
            key,
            path: path.to_owned(),
            source,
        })
    };
    if let Some(path) = &settings.credentials {
        let path = file("bus.credentials", path)?;
        let broken = |source| NatsError::File { key: "bus.credentials", path: path.clone(), source };
        options = options.credentials_file(&path).await.map_err(broken)?;
    }
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &settings.token {
        options = options.token(token.clone());
    }
    if let Some(path) = &settings.tls_ca {
        options = options.add_root_certificates(file("bus.tls_ca", path)?).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) {
        let (cert, key) = (file("bus.tls_cert", cert)?, file("bus.tls_key", key)?);
        options = options.add_client_certificate(cert, key).require_tls(true);
    }
    Ok(options)
}

/// The first cause: those behind it only repeat it.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Whether a handshake failed: a certificate that nobody vouches for does not become good by waiting.
fn is_about_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<async_nats::rustls::Error>()
            || inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<async_nats::rustls::Error>)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Doubled each time and random in half of it, so that the nodes do not come back as one.
fn pause_before(attempt: usize) -> Duration {
    let exponent = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(5);
    let full = (Duration::from_millis(100) * 2_u32.pow(exponent)).min(RECONNECT_MAX);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

fn on_event(event: &Event, health: &Health, doubt: &Notify) {
    match event {
        Event::Connected => {
            if health.set_connected(true) {
                info!("NATS is back");
            }
            doubt.notify_one();
        }
        Event::Disconnected | Event::Closed => {
            if health.set_connected(false) {
                warn!("the connection to NATS is lost");
            }
        }
        Event::SlowConsumer(_) => {
            warn!("this node is slower than NATS; what was dropped is fetched again");
            doubt.notify_one();
        }
        Event::LameDuckMode | Event::Draining => info!("the NATS server is going away"),
        Event::ServerError(error) => warn!(%error, "NATS"),
        // Among them every attempt to come back.
        Event::ClientError(error) => debug!(%error, "NATS client"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_spread() {
        assert!(pause_before(1) <= Duration::from_millis(100));
        for attempt in [5, 100, usize::MAX] {
            assert!(
                (RECONNECT_MAX / 2..=RECONNECT_MAX)
                    .contains(&pause_before(attempt + 2_usize.min(usize::MAX - attempt)))
            );
        }
    }
}
