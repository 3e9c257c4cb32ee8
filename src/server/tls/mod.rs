//! TLS as the edge ends it: certificate and key from PEM files, read again when they change, so that a renewed
//! certificate needs no restart.

mod stream;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use tokio_rustls::rustls;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};

pub use self::stream::TlsStream;
use crate::config;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read.
    #[error("{key} ({path}): {source}")]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file without what it should hold.
    #[error("{key} ({path}) holds no PEM {what}")]
    Empty {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key don't make a server.
    #[error("tls.cert and tls.key: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The certificate in use.
pub struct Tls {
    settings: config::Tls,
    /// For all, and for those who are only told why they are refused.
    servers: RwLock<[Arc<ServerConfig>; 2]>,
    changed: RwLock<[Option<SystemTime>; 2]>,
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`TlsError`], naming the key and the file.
    pub fn load(settings: &config::Tls) -> Result<Self, TlsError> {
        // Before the files are read: a change in between is then seen at the next look.
        let changed = modified(settings);
        let servers = RwLock::new(servers(settings)?);
        Ok(Self { settings: settings.clone(), servers, changed: RwLock::new(changed) })
    }

    /// For a new connection. One that is refused gets HTTP/1.1, where an answer can end its connection: an HTTP/2
    /// client would keep it, and be refused on it for ever.
    pub fn server(&self, refused: bool) -> Arc<ServerConfig> {
        Arc::clone(&self.servers.read()[usize::from(refused)])
    }

    /// Reads the files again if they have changed; whether they had. The old ones stay in use until the new ones
    /// are good.
    ///
    /// # Errors
    /// [`TlsError`], naming the key and the file.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let changed = modified(&self.settings);
        if changed == *self.changed.read() {
            return Ok(false);
        }
        let fresh = servers(&self.settings)?;
        *self.servers.write() = fresh;
        *self.changed.write() = changed;
        Ok(true)
    }
}

fn servers(settings: &config::Tls) -> Result<[Arc<ServerConfig>; 2], TlsError> {
    let file_error = |key, path: &Path| {
        let path = path.display().to_string();
        move |source| TlsError::File { key, path, source }
    };
    let cert_error = || file_error("tls.cert", &settings.cert);
    let key_error = || file_error("tls.key", &settings.key);
    let mut pem = BufReader::new(File::open(&settings.cert).map_err(cert_error())?);
    let chain: Vec<_> = rustls_pemfile::certs(&mut pem).collect::<Result<_, _>>().map_err(cert_error())?;
    if chain.is_empty() {
        let path = settings.cert.display().to_string();
        return Err(TlsError::Empty { key: "tls.cert", path, what: "certificate" });
    }
    let mut pem = BufReader::new(File::open(&settings.key).map_err(key_error())?);
    let key = rustls_pemfile::private_key(&mut pem).map_err(key_error())?.ok_or_else(|| {
        let path = settings.key.display().to_string();
        TlsError::Empty { key: "tls.key", path, what: "private key" }
    })?;
    let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // Stateless: a client that comes back skips the handshake's expensive half, and nothing is kept for it.
    server.ticketer = aws_lc_rs::Ticketer::new()?;
    server.alpn_protocols = [b"http/1.1".to_vec(), b"http/1.0".to_vec()].into();
    let refused = Arc::new(server.clone());
    server.alpn_protocols.insert(0, b"h2".to_vec());
    Ok([Arc::new(server), refused])
}

fn modified(settings: &config::Tls) -> [Option<SystemTime>; 2] {
    [&settings.cert, &settings.key].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}
