//! From flags, environment and file to a [`Config`]: flags over environment over file over defaults, every key
//! known, every value in its bounds and in agreement with the others. Called once, at the start of every command
//! that needs the configuration; logs nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::keys::{self, SECTIONS, wrong};
use super::tree::Node;
use super::{Config, ConfigError, Place, relations, web_origin};

/// Where the configuration comes from. Tests fill it by hand; the process's own is [`Source::of_process`].
// Not `Debug`: the environment holds secrets.
#[derive(Clone, Default)]
pub struct Source {
    /// `--config`. Without it `TIDEGATE_CONFIG` names the file; without both it is development mode.
    pub file: Option<PathBuf>,
    /// `--set section.key=value`, and the flags that stand for one key; later ones win.
    pub set: Vec<(String, String)>,
    /// The environment. Only names that begin with `TIDEGATE_` are looked at.
    pub env: Vec<(OsString, OsString)>,
}

impl Source {
    /// These flags, and the environment of this process as it is now.
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    pub fn of_process(file: Option<PathBuf>, set: Vec<(String, String)>) -> Self {
        Self { file, set, env: std::env::vars_os().collect() }
    }

    /// A variable that is no configuration key, such as `TIDEGATE_TOKEN`; an empty one counts as not set.
    ///
    /// # Errors
    /// [`ConfigError::NotUtf8`].
    pub fn variable(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        let Some((_, value)) = self.env.iter().rfind(|(found, _)| found == name) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| ConfigError::NotUtf8 { variable: name.to_owned() })?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The configuration file, if there is one.
    ///
    /// # Errors
    /// [`ConfigError::NotUtf8`].
    pub fn config_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        match &self.file {
            Some(path) => Ok(Some(path.clone())),
            None => Ok(self.variable("TIDEGATE_CONFIG")?.map(PathBuf::from)),
        }
    }
}

/// Reads the configuration and checks it, without looking at the files that it names.
///
/// # Errors
/// The first thing that is wrong, with its place and what would be right.
pub fn load(source: &Source) -> Result<Config, ConfigError> {
    let file = source.config_file()?;
    let mut tree = match &file {
        Some(path) => read(path)?,
        None => development(),
    };
    let mistyped = set_from_environment(&mut tree, source)?;
    set_from_flags(&mut tree, source)?;
    inherit_from_default(&mut tree);

    keys::check(&tree)?;
    let mut config = typed(&tree)?;
    config.development = file.is_none();
    // What is no origin was refused with the other values.
    config.origins.allow = config.origins.allow.iter().filter_map(|text| web_origin::normal(text)).collect();
    relations::check(&config, &tree)?;
    config.warnings = mistyped;
    config.warnings.extend(relations::warnings(&config));
    Ok(config)
}

fn read(path: &Path) -> Result<Node, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    Node::from_toml(&text, path)
}

/// What holds without a file. That it is reachable from this machine alone is checked with the other relations.
fn development() -> Node {
    let mut tree = Node::section(Place::Development);
    tree.set(&["auth", "mode"], &Place::Development, "optional");
    tree.set(&["channels", "default", "join"], &Place::Development, "anyone");
    tree.set(&["channels", "default", "send"], &Place::Development, "anyone");
    tree
}

/// Returns a warning for each variable that was probably meant as a key.
fn set_from_environment(tree: &mut Node, source: &Source) -> Result<Vec<String>, ConfigError> {
    let mut ours: Vec<(&str, &OsString)> =
        source.env.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
    ours.retain(|(name, _)| name.starts_with("TIDEGATE_"));
    ours.sort_unstable();
    let mut warnings = Vec::new();
    for (variable, value) in ours {
        let name = variable["TIDEGATE_".len()..].to_ascii_lowercase();
        // The short name that other programs have too; it sorts before TIDEGATE_LOG__LEVEL, which therefore wins.
        let name = if name == "log" { "log__level" } else { name.as_str() };
        if !name.contains("__") {
            warnings.extend(intended(name).map(|key| format!("{variable} is not read; {key} would be")));
            continue;
        }
        let text = value.to_str().ok_or_else(|| ConfigError::NotUtf8 { variable: variable.to_owned() })?;
        if variable == "TIDEGATE_LOG" && text.is_empty() {
            continue;
        }
        let place = Place::Variable(variable.to_owned());
        let path = path(name, "__").ok_or_else(|| no_key(&place, name))?;
        let existing = match path.as_slice() {
            [section, namespace, _] => as_written(tree, section, namespace),
            _ => None,
        };
        let path: Vec<&str> = match (&existing, path.as_slice()) {
            (Some(namespace), [section, _, key]) => vec![section, namespace, key],
            _ => path,
        };
        tree.set(&path, &place, text);
    }
    Ok(warnings)
}

fn set_from_flags(tree: &mut Node, source: &Source) -> Result<(), ConfigError> {
    for (key, value) in &source.set {
        let place = Place::Flag(match key.as_str() {
            "listen.addr" => "--listen".to_owned(),
            "listen.admin" => "--admin".to_owned(),
            _ => format!("--set {key}"),
        });
        let path = path(key, ".").ok_or_else(|| no_key(&place, key))?;
        tree.set(&path, &place, value);
    }
    Ok(())
}

/// Section and key; under `channels` everything between the first and the last separator is the namespace.
fn path<'a>(text: &'a str, separator: &str) -> Option<Vec<&'a str>> {
    let (section, rest) = text.split_once(separator)?;
    if section != "channels" {
        return Some(vec![section, rest]);
    }
    let (namespace, key) = rest.rsplit_once(separator)?;
    Some(vec![section, namespace, key])
}

/// Names of variables are in capitals: one means the namespace that the file has, however that is written.
fn as_written(tree: &Node, section: &str, namespace: &str) -> Option<String> {
    let namespaces = tree.get(&[section])?.entries()?;
    if namespaces.contains_key(namespace) {
        return None;
    }
    namespaces.keys().find(|name| name.eq_ignore_ascii_case(namespace)).cloned()
}

/// The variable that was meant by one with a single underscore too few.
fn intended(name: &str) -> Option<String> {
    let variable = |section: &str, key: &str| format!("TIDEGATE_{section}__{key}").to_ascii_uppercase();
    SECTIONS
        .iter()
        .filter(|(section, _)| *section != "channels")
        .flat_map(|(section, keys)| keys.iter().map(move |(key, _)| (*section, *key)))
        .find(|(section, key)| {
            name.strip_prefix(section).and_then(|rest| rest.strip_prefix('_')) == Some(*key)
        })
        .map(|(section, key)| variable(section, key))
}

fn no_key(place: &Place, key: &str) -> ConfigError {
    let advice = if key.starts_with("channels") {
        "is no key; one of a namespace is written channels.NAMESPACE.key, such as channels.default.join"
    } else {
        "is no key; one is written section.key, such as limits.message_bytes"
    };
    ConfigError::Unknown { place: place.clone(), key: keys::shown(key), advice: advice.to_owned() }
}

fn inherit_from_default(tree: &mut Node) {
    let Some(default) = tree.get(&["channels", "default"]).cloned() else { return };
    let Some(channels) = tree.get_mut("channels") else { return };
    for namespace in channels.values_mut() {
        namespace.inherit(&default);
    }
}

/// The table of keys has checked every value before, so that this finds nothing unless table and types disagree.
fn typed(tree: &Node) -> Result<Config, ConfigError> {
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let key = error.path().to_string();
        let path: Vec<&str> = path(&key, ".").unwrap_or_default();
        let advice = keys::takes(&path).map_or_else(|| error.inner().to_string(), ToString::to_string);
        wrong(&key, tree.get(&path).unwrap_or(tree), advice)
    })
}
