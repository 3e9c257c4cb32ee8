//! The development certificate, its key and the development secret: made at the first start, so that the edge
//! speaks TLS and signs tokens without any setup. Called by `serve` and `token`; never touches files that are still
//! good, and nothing outside its directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore};

/// What was missing, or no longer good, and is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// `dev.crt` and `dev.key`.
    pub certificate: bool,
    /// `dev.secret`.
    pub secret: bool,
}

/// Why there is no certificate or secret for development.
#[derive(Debug, thiserror::Error)]
pub enum DevCertError {
    /// A file cannot be read or written.
    #[error("cannot make {} for development: {source}; start where the directory can be written", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate cannot be made.
    #[error("cannot make a certificate for development: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Names under which a machine reaches itself.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_hours(24);
/// Below the 398 days that Chromium allows (CA/Browser Forum Baseline Requirements §6.3.2); an hour of it lies in
/// the past, for clocks that are behind.
const LIFE: Duration = Duration::from_hours(24 * 397);
const BEHIND: Duration = Duration::from_hours(1);

/// Sees to it that the directory holds a certificate with its key and a secret, all good for another day.
///
/// # Errors
/// [`DevCertError`].
pub fn ensure(directory: &Path) -> Result<Created, DevCertError> {
    let certificate = ensure_certificate(directory)?;
    let (_, secret) = secret(directory)?;
    Ok(Created { certificate, secret })
}

/// Sees to it that the directory holds a certificate for this machine's own names with its key; true if they are
/// new.
///
/// # Errors
/// [`DevCertError`].
pub fn ensure_certificate(directory: &Path) -> Result<bool, DevCertError> {
    ensure_certificate_at(directory, SystemTime::now())
}

/// The secret that development tokens are signed with: the text of the file, base64url of 32 random bytes. True if
/// it is new.
///
/// # Errors
/// [`DevCertError`].
pub fn secret(directory: &Path) -> Result<(String, bool), DevCertError> {
    let path = directory.join("dev.secret");
    let found = |path: &Path| {
        let text = fs::read_to_string(path).ok()?.trim().to_owned();
        (text.len() >= 32).then_some(text)
    };
    if let Some(secret) = found(&path) {
        return Ok((secret, false));
    }
    let _lock = lock(directory)?;
    if let Some(secret) = found(&path) {
        return Ok((secret, false));
    }
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    replace(&path, secret.as_bytes(), 0o600)?;
    Ok((secret, true))
}

fn ensure_certificate_at(directory: &Path, now: SystemTime) -> Result<bool, DevCertError> {
    let (cert, key) = (directory.join("dev.crt"), directory.join("dev.key"));
    if is_good(&cert, &key, now) {
        return Ok(false);
    }
    let _lock = lock(directory)?;
    if is_good(&cert, &key, now) {
        return Ok(false);
    }
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = parameters(now)?.self_signed(&pair)?;
    replace(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    replace(&cert, certificate.pem().as_bytes(), 0o644)?;
    Ok(true)
}

fn parameters(now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(NAMES.map(str::to_owned))?;
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    parameters.not_before = date_time_ymd(1970, 1, 1) + since_epoch.saturating_sub(BEHIND);
    // RFC 5280 §4.1.2.5: the last second belongs to it.
    parameters.not_after = parameters.not_before + LIFE.saturating_sub(Duration::from_secs(1));
    // Stores of trusted certificates mix up those of the same name.
    let name = format!("Tidegate development {:08x}", rand::random::<u32>());
    parameters.distinguished_name.push(DnType::CommonName, name);
    // No authority: whoever gets hold of the key can play this machine's own names, and nobody else.
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

/// Whether a client that trusts the certificate would accept it a day from now, and the key belongs to it.
fn is_good(cert: &Path, key: &Path, now: SystemTime) -> bool {
    let Some((chain, certified)) = pair(cert, key) else { return false };
    let tomorrow = now.duration_since(UNIX_EPOCH).unwrap_or_default() + DAY;
    certified.is_ok() && NAMES.iter().all(|name| accepts(&chain[0], name, tomorrow))
}

type Pair = (Vec<CertificateDer<'static>>, Result<CertifiedKey, rustls::Error>);

fn pair(cert: &Path, key: &Path) -> Option<Pair> {
    let (cert, key) = (fs::read(cert).ok()?, fs::read(key).ok()?);
    let chain: Vec<_> = rustls_pemfile::certs(&mut cert.as_slice()).collect::<Result<_, _>>().ok()?;
    let key = rustls_pemfile::private_key(&mut key.as_slice()).ok()??;
    chain.first()?;
    let certified = CertifiedKey::from_der(chain.clone(), key, &aws_lc_rs::default_provider());
    Some((chain, certified))
}

fn accepts(certificate: &CertificateDer<'_>, name: &str, at: Duration) -> bool {
    let mut roots = RootCertStore::empty();
    if roots.add(certificate.clone().into_owned()).is_err() {
        return false;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build() else {
        return false;
    };
    let Ok(name) = ServerName::try_from(name) else { return false };
    verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::since_unix_epoch(at)).is_ok()
}

/// Keeps two first starts from pairing one's certificate with the other's key. Held until the file is dropped.
fn lock(directory: &Path) -> Result<File, DevCertError> {
    let path = directory.join(".dev.lock");
    let open = || -> io::Result<File> {
        fs::create_dir_all(directory)?;
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        match file.lock() {
            // Some network file systems have no locks; two first starts at once are rare enough there.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
            _ => Ok(file),
        }
    };
    open().map_err(|source| DevCertError::Io { path: path.clone(), source })
}

/// Nobody ever reads half a file: it is written beside and renamed.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), DevCertError> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        let mut file = options.open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // Left over, it would stand in the way of the next start.
        let _ = fs::remove_file(&temporary);
        DevCertError::Io { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path, name: &str) -> Vec<u8> {
        fs::read(directory.join(name)).unwrap()
    }

    #[test]
    fn what_is_good_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let certs = directory.path().join("a/certs");
        assert_eq!(ensure(&certs).unwrap(), Created { certificate: true, secret: true });
        let files = ["dev.crt", "dev.key", "dev.secret"];
        let before = files.map(|name| read(&certs, name));
        assert_eq!(ensure(&certs).unwrap(), Created { certificate: false, secret: false });
        assert_eq!(files.map(|name| read(&certs, name)), before);

        let (secret, new) = secret(&certs).unwrap();
        assert_eq!((secret.as_bytes(), new), (before[2].as_slice(), false));
        assert_eq!(URL_SAFE_NO_PAD.decode(secret).unwrap().len(), 32);
        let names: Vec<_> = fs::read_dir(&certs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "nothing temporary is left: {names:?}");
    }

    #[cfg(unix)]
    #[test]
    fn key_and_secret_are_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        ensure(directory.path()).unwrap();
        let mode = |name| fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("dev.key"), mode("dev.secret")), (0o600, 0o600));
    }

    #[test]
    fn it_lives_397_days_and_is_remade_on_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        assert!(ensure_certificate_at(directory.path(), now).unwrap());
        let (chain, _) = pair(&directory.path().join("dev.crt"), &directory.path().join("dev.key")).unwrap();
        let begin = now.duration_since(UNIX_EPOCH).unwrap().saturating_sub(BEHIND);
        for name in NAMES {
            assert!(accepts(&chain[0], name, begin + Duration::from_secs(1)), "{name}");
            assert!(accepts(&chain[0], name, begin + LIFE.saturating_sub(Duration::from_secs(2))), "{name}");
            assert!(!accepts(&chain[0], name, begin + LIFE + Duration::from_secs(1)), "{name}");
        }
        assert!(!accepts(&chain[0], "example.com", begin + DAY));

        assert!(!ensure_certificate_at(directory.path(), now + LIFE - 2 * DAY).unwrap());
        assert!(ensure_certificate_at(directory.path(), now + LIFE - DAY).unwrap());
    }

    #[test]
    fn what_is_broken_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        ensure(directory.path()).unwrap();
        ensure(other.path()).unwrap();
        fs::copy(other.path().join("dev.key"), directory.path().join("dev.key")).unwrap();
        assert!(ensure_certificate(directory.path()).unwrap(), "another certificate's key");
        fs::write(directory.path().join("dev.crt"), "").unwrap();
        fs::write(directory.path().join("dev.secret"), "short").unwrap();
        assert_eq!(ensure(directory.path()).unwrap(), Created { certificate: true, secret: true });
        fs::remove_file(directory.path().join("dev.key")).unwrap();
        assert!(ensure_certificate(directory.path()).unwrap());
    }

    #[test]
    fn starts_at_once_agree() {
        let directory = tempfile::tempdir().unwrap();
        let starts: Vec<Created> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| ensure(directory.path()).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert_eq!(starts.iter().filter(|created| created.certificate).count(), 1);
        assert_eq!(starts.iter().filter(|created| created.secret).count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let text = ensure(&file.join("certs")).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot make {}", file.join("certs").display())), "{text}");
        assert!(
            text.ends_with("Not a directory (os error 20); start where the directory can be written"),
            "{text}"
        );
    }
}
