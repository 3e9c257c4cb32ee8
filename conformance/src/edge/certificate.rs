//! A certificate for `localhost`, made for one start of the edge, and a client that trusts exactly it.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::EdgeError;

pub(crate) const CERT: &str = "edge.crt";
pub(crate) const KEY: &str = "edge.key";

/// Writes certificate and key into the folder and returns a client that trusts them.
pub(crate) fn make(dir: &Path) -> Result<TlsConnector, EdgeError> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    std::fs::write(dir.join(CERT), made.cert.pem())?;
    std::fs::write(dir.join(KEY), made.signing_key.serialize_pem())?;
    trusting(made.cert.pem().as_bytes())
}

/// A client that trusts the PEM certificates.
pub(super) fn trusting(mut pem: &[u8]) -> Result<TlsConnector, EdgeError> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem) {
        roots.add(certificate?).map_err(|error| std::io::Error::other(error.to_string()))?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
