//! A certificate for `localhost`, made for one start of the edge, and a client that trusts exactly it.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{CipherSuite, ClientConfig, RootCertStore};

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
    let mut provider = aws_lc_rs::default_provider();
    // As browsers offer them, AES with 128 bits first; which one it is, is up to the client with most servers.
    provider.cipher_suites.sort_by_key(|suite| {
        use CipherSuite::{
            TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            TLS13_AES_256_GCM_SHA384,
        };
        matches!(
            suite.suite(),
            TLS13_AES_256_GCM_SHA384
                | TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        )
    });
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
