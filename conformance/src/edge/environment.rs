//! The surroundings of a check: which server to look at, for how long, with which seed. The one place of this
//! package where the environment is read.
#![expect(clippy::disallowed_methods, reason = "the one place of this package that reads the environment")]

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;

use super::{EdgeError, Minter, certificate};
use crate::wire::Target;

/// A server that runs already.
pub(super) struct Named {
    pub(super) target: Target,
    pub(super) admin: Option<Target>,
    pub(super) pid: Option<u32>,
}

/// A number from the environment, or `otherwise` when the variable is not set.
///
/// # Panics
/// If the variable is set and is no such number: a check that ran with another value than was asked for would lie.
pub fn number<T: FromStr>(variable: &str, otherwise: T) -> T {
    match std::env::var(variable) {
        Err(_) => otherwise,
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{variable}={text} is no number of the kind")),
    }
}

/// The seed of everything random in a check: `CONFORMANCE_SEED`, or a new one. The check prints it.
pub fn seed() -> u64 {
    number("CONFORMANCE_SEED", rand::random::<u32>().into())
}

/// The binary: `TIDEGATE_BIN`, or the one that Cargo has built beside this check, release before debug.
pub(super) fn binary() -> Result<PathBuf, EdgeError> {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(EdgeError::NoBinary { looked: vec![path] }) };
    }
    let this = std::env::current_exe()?;
    // target/debug/deps/switching-0123 or target/release/load: the target folder is what holds the profile's.
    let profile =
        this.parent().map(|dir| if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir });
    let target = profile.and_then(|profile| profile.parent()).map(PathBuf::from).unwrap_or_default();
    let looked: Vec<_> = ["release", "debug"].map(|profile| target.join(profile).join("tidegate")).into();
    looked.iter().find(|path| path.is_file()).cloned().ok_or(EdgeError::NoBinary { looked })
}

/// Where to leave a record of what was seen: `CONFORMANCE_TRAFFIC`.
pub fn traffic_folder() -> Option<PathBuf> {
    std::env::var_os("CONFORMANCE_TRAFFIC").map(PathBuf::from)
}

/// Where a program may be: what the variable names and nothing else, or its name in each folder of the PATH and then the
/// other places.
pub(crate) fn programs(variable: &str, name: &str, elsewhere: &[PathBuf]) -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return vec![PathBuf::from(path)];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_the_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    on_the_path.chain(elsewhere.iter().cloned()).collect()
}

/// Variables that the server would take for its own configuration.
pub(super) fn of_the_server() -> Vec<OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_str().is_some_and(|name| name.starts_with("TIDEGATE_"))).collect()
}

/// Whether there is a server that runs already.
pub(super) fn names_an_edge() -> bool {
    std::env::var_os("EDGE_URL").is_some()
}

/// What `EDGE_URL`, `EDGE_ADMIN`, `EDGE_SECRET`, `EDGE_CA` and `EDGE_PID` say.
pub(super) fn named_edge() -> Result<Option<Named>, EdgeError> {
    let wrong = |variable, problem: &str| EdgeError::Environment { variable, problem: problem.to_owned() };
    let Ok(url) = std::env::var("EDGE_URL") else { return Ok(None) };
    let secret = std::env::var("EDGE_SECRET");
    let minter = Minter::new(secret.as_deref().unwrap_or(Minter::SECRET));
    let (tls, addr) =
        split(&url).ok_or_else(|| wrong("EDGE_URL", "takes http://HOST:PORT or https://HOST:PORT"))?;
    let mut target = Target::plain(addr, minter.clone());
    if tls {
        let file = std::env::var_os("EDGE_CA")
            .ok_or_else(|| wrong("EDGE_CA", "the server's certificate (PEM) is needed to trust it"))?;
        target = target.with_tls(certificate::trusting(&std::fs::read(file)?)?);
    }
    let admin = match std::env::var("EDGE_ADMIN") {
        Err(_) => None,
        Ok(url) => {
            let (_, addr) = split(&url).ok_or_else(|| wrong("EDGE_ADMIN", "takes http://HOST:PORT"))?;
            Some(Target::plain(addr, minter))
        }
    };
    let pid = std::env::var("EDGE_PID").ok().map(|pid| pid.parse());
    let pid = pid.transpose().map_err(|_| wrong("EDGE_PID", "takes a process id"))?;
    Ok(Some(Named { target, admin, pid }))
}

/// Whether a URL asks for TLS, and the address of its host.
fn split(url: &str) -> Option<(bool, SocketAddr)> {
    let (scheme, rest) = url.trim_end_matches('/').split_once("://")?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    // IPv4 first: the development server listens there alone.
    let mut found: Vec<_> = rest.to_socket_addrs().ok()?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    Some((tls, *found.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_scheme_and_a_port() {
        assert_eq!(split("https://127.0.0.1:8443/"), Some((true, SocketAddr::from(([127, 0, 0, 1], 8443)))));
        assert_eq!(split("http://127.0.0.1:80"), Some((false, SocketAddr::from(([127, 0, 0, 1], 80)))));
        for bad in ["127.0.0.1:80", "ws://127.0.0.1:80", "http://127.0.0.1"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
