//! Whom a client believes to be the edge: the certificates of the system, a named one, the development certificate
//! on this machine, or, if that was asked for, anyone.
//!
//! The system's certificates rather than a list compiled in: they have what a company adds for its own services,
//! and what a distribution has withdrawn since.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::EdgeUrl;
use crate::commands::Failure;
use crate::config::DEVELOPMENT_DIRECTORY;

/// What makes TLS connections to that URL.
///
/// # Errors
/// A certificate cannot be read, or there is none to trust.
pub(super) fn connector(url: &EdgeUrl, ca: Option<&Path>, insecure: bool) -> Result<TlsConnector, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3");
    let mut config = if insecure {
        config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth()
    } else {
        config.with_root_certificates(roots(url, ca)?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

/// What may help after a failed handshake.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_)) => {
            " (name the edge's certificate with --ca FILE, or trust any with --insecure)"
        }
        Some(Error::InvalidMessage(_)) => " (is it http:// rather than https://?)",
        _ => "",
    }
}

fn roots(url: &EdgeUrl, ca: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca {
        add(&mut roots, "--ca", file)?;
        return Ok(roots);
    }
    // Some systems hold a few that cannot be parsed; what is left decides.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let own = Path::new(DEVELOPMENT_DIRECTORY).join("dev.crt");
    if url.is_local() && own.exists() {
        add(&mut roots, "the development certificate", &own)?;
    }
    if roots.is_empty() {
        let problem = "this system trusts no certificates at all; name the edge's with --ca FILE";
        return Err(Failure::Usage(problem.to_owned()));
    }
    Ok(roots)
}

fn add(roots: &mut RootCertStore, key: &'static str, file: &Path) -> Result<(), Failure> {
    let wrong = |problem: String| Failure::File { key, file: file.to_owned(), problem };
    let pem = std::fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut found = 0;
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate = certificate.map_err(|error| wrong(format!("is no PEM file: {error}")))?;
        roots.add(certificate).map_err(|error| wrong(format!("has a certificate that is none: {error}")))?;
        found += 1;
    }
    if found == 0 {
        return Err(wrong("has no certificate in PEM form".to_owned()));
    }
    Ok(())
}

/// Takes any certificate, as long as the other side has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
