//! The project's structure, held by a test: which module may know which, how far a file or a function may
//! grow, that no file is dead, no exception is silent and no link of the documents is broken.
//!
//! It reads the tree as text and knows just enough Rust to tell code from comments and strings; it never
//! compiles or runs what it looks at. A new top-level module fails here until it has a row in [`LAYERS`].

mod source_text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source_text::{Source, body_start, closing, first_segments, ident, is_crate_root, root, texts};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const DOCUMENT_LINES: &[(&str, usize)] = &[("ARCHITECTURE.md", 150), ("README.md", 200)];

/// The modules of `src/`, lowest first: name, what it may use of the others, why that and no more.
/// A row names only rows above it: no cycle, and one order to read the code in. A module's unit tests may set
/// their scene with whatever is above its row.
const LAYERS: &str = "
    close     |                        | the catalogue of endings is data: all read it, it reads nobody
    deflate   |                        | bytes to fewer bytes and back
    config    |                        | settings are parsed once and know nothing of what they set
    channel   | deflate                | the core: logs and cursors, without I/O and without surroundings
    envelope  | channel close          | the wire's form of positions and endings, and of nothing else
    bus       | channel close config envelope | moves publications into logs; who reads them is not its business
    hub       | bus channel close config | name to channel; it does not know that there are clients
    metrics   | channel close          | counters by transport, code and reason: no users, no names
    auth      | channel close config   | a token becomes an identity; of channels it knows the names
    quota     | auth close config      | a rate is decided from who asks, from where, and a clock
    presence  | bus channel config envelope hub | who is there, on whatever node; it publishes like anybody, it does not deliver
    transport | auth bus channel close config deflate envelope hub metrics presence quota | moves cursors to clients
    admin     | auth bus close config hub metrics | looks on from its own listener, and takes tokens back
    demo      | config                 | pages that speak the public wire like anybody else
    server    | admin auth bus channel close config demo envelope hub metrics presence quota transport | owns \
                the sockets from accept to close
    commands  | auth channel close config envelope metrics server | clients among them speak the wire, not to the hub
    main      | commands config metrics server | logs, configuration, the command, the exit code
";

/// Dependencies that have a place: crate or `crate::module`, the modules that may name it, why. Unit tests may
/// name any: what they use to make an input says nothing about the module.
const CRATES: &str = "
    hyper             | admin auth commands demo server transport | HTTP begins above the hub
    hyper_util        | admin commands server transport           | HTTP begins above the hub
    http_body_util    | admin commands demo server transport      | HTTP begins above the hub
    flate2            | deflate                   | one compressor and one inflater a thread
    fastwebsockets    | commands transport        | one transport's codec
    tokio_rustls      | commands server transport | a connection's TLS; a transport takes its stream back
    rustls_pemfile    | commands server           | certificates are read where TLS is set up
    rcgen             | commands server           | the development certificate is made where TLS is set up
    async_nats        | bus                       | one kind of bus; the rest knows the trait
    jsonwebtoken      | auth commands             | tokens are judged in one place
    governor          | quota                     | the rest asks `quota`
    prometheus_client | admin metrics             | the rest calls methods of `metrics`
    toml              | config                    | settings are parsed once
    clap              | commands config main      | flags are a source of settings
    anyhow            | commands main             | below, each boundary has an error enum of its own
    tokio::net        | admin bus commands server transport | no sockets in the core
    tokio::io         | admin bus commands server transport | no streams in the core
    tokio::fs         | auth commands config main server    | no files in the core
    std::fs           | auth bus commands config main metrics server | no files in the core; metrics reads /proc, the bus its keys
";

/// The rows of such a table.
fn rows(table: &'static str) -> impl Iterator<Item = (&'static str, Vec<&'static str>, &'static str)> {
    table.lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let mut cells = line.split('|').map(str::trim);
        let mut cell = || cells.next().expect("a row has three cells");
        (cell(), cell().split(' ').filter(|name| !name.is_empty()).collect(), cell())
    })
}

#[test]
fn layers_are_in_order() {
    let mut below = BTreeSet::new();
    for (module, may_use, _) in rows(LAYERS) {
        for used in may_use {
            assert!(below.contains(used), "LAYERS: `{module}` may use `{used}`, which has no row above it");
        }
        assert!(below.insert(module), "LAYERS: `{module}` has two rows");
    }
}

#[test]
fn arrows_point_down() {
    report(rust_files().iter().flat_map(arrows));
}

#[test]
fn dependencies_stay_in_their_place() {
    report(rust_files().iter().flat_map(dependencies));
}

#[test]
fn conformance_is_a_stranger() {
    let manifest = fs::read_to_string(root().join("conformance/Cargo.toml")).expect("the package is there");
    let imports = manifest.lines().any(|line| line.starts_with("tidegate") || line.contains("path = \"..\""));
    assert!(!imports, "conformance/Cargo.toml: it checks the server from outside and must not import it");
}

#[test]
fn files_and_functions_stay_small() {
    let mut problems: Vec<String> = rust_files().iter().flat_map(sizes).collect();
    for (name, most) in DOCUMENT_LINES {
        let lines = fs::read_to_string(root().join(name)).map_or(0, |text| text.lines().count());
        if lines > *most {
            problems.push(format!("{name}: {lines} lines, at most {most}"));
        }
    }
    report(problems);
}

#[test]
fn no_file_is_dead() {
    let files = rust_files();
    let known: BTreeMap<&Path, &Source> = files.iter().map(|file| (file.path.as_path(), file)).collect();
    let mut alive: BTreeSet<PathBuf> =
        known.keys().filter(|path| is_crate_root(path)).map(|path| path.to_path_buf()).collect();
    let mut open: Vec<PathBuf> = alive.iter().cloned().collect();
    while let Some(path) = open.pop() {
        for child in known.get(path.as_path()).into_iter().flat_map(|file| file.children()) {
            if known.contains_key(child.as_path()) && alive.insert(child.clone()) {
                open.push(child);
            }
        }
    }
    let dead = known.keys().filter(|path| !alive.contains(**path));
    report(dead.map(|path| format!("{}: no `mod` line reaches it", path.display())));
}

#[test]
fn a_folder_has_no_file_of_its_name() {
    let twin = |file: &Source| {
        let folder = file.path.with_extension("");
        let beside = folder.starts_with("src") && root().join(&folder).is_dir();
        beside.then(|| format!("{}: belongs into {}/ as mod.rs", file.shown(), folder.display()))
    };
    report(rust_files().iter().filter_map(twin));
}

#[test]
fn every_file_says_what_it_is() {
    let silent = rust_files().into_iter().filter(|file| !opens_with_docs(&file.text));
    report(silent.map(|file| format!("{}: does not open with a `//!` sentence", file.shown())));
}

#[test]
fn nothing_is_left_over() {
    let code = rust_files();
    report(code.iter().flat_map(shortcuts).chain(texts().iter().flat_map(leftovers)));
}

#[test]
fn links_of_the_documents_hold() {
    let documents: Vec<Source> = texts().into_iter().filter(|file| file.is("md")).collect();
    assert!(
        documents.iter().any(|file| file.path == Path::new("ARCHITECTURE.md")),
        "ARCHITECTURE.md is missing"
    );
    report(documents.iter().flat_map(|file| broken_links(file, &root())));
}

/// Each rule is shown a tree that breaks it, so that none can rot into one that always passes.
#[test]
fn the_rules_bite() {
    type Rule = fn(&Source) -> Vec<String>;
    let found = |rule: Rule, path: &str, text: &str| rule(&Source::new(path, text)).len();

    assert_eq!(found(arrows, "src/channel/log.rs", "use crate::{channel::Position, hub::{Hub, bus}};"), 1);
    assert_eq!(
        found(arrows, "src/channel/log.rs", "use super::Position; fn f() { super::super::hub::x() }"),
        1
    );
    assert_eq!(
        found(arrows, "src/hub.rs", "mod tests { use super::*; use super::super::server::Server; }"),
        1
    );
    assert_eq!(found(arrows, "src/admin/tests.rs", "use crate::{bus::Bus, server::Server};"), 1);
    assert_eq!(found(arrows, "src/bus/mod.rs", "pub(in crate::bus) fn f() -> crate::Channel {}"), 1);
    assert_eq!(found(arrows, "src/invented.rs", ""), 1);
    assert_eq!(found(arrows, "src/main.rs", "use tidegate::hub::Hub; use tidegate::config::Config;"), 1);
    let literals = "fn f<'a>(x: &'a str) { ('\"', '\\'', b'\"', r#\"\"crate::bus\"#) } /* /* */ crate::bus */ use crate::hub;";
    assert_eq!(found(arrows, "src/channel/log.rs", literals), 1);
    assert_eq!(found(arrows, "src/channel/log.rs", "// crate::hub\nconst S: &str = \"crate::hub\";"), 0);

    assert_eq!(
        found(dependencies, "src/channel/log.rs", "use hyper::Request; use tokio::{net::TcpStream, sync};"),
        2
    );
    assert_eq!(found(dependencies, "src/hub.rs", "use anyhow; fn f(x: ::async_nats::Client) {}"), 2);
    assert_eq!(found(dependencies, "src/bus/nats.rs", "use async_nats::Client; use crate::hyper::x;"), 0);

    assert_eq!(found(dependencies, "src/hub/tests.rs", "use toml::Table;"), 0);
    assert_eq!(
        found(dependencies, "src/hub.rs", "use toml::Table;\n#[cfg(test)]\nmod tests { use rcgen::x; }"),
        1
    );

    let body = "x();\n".repeat(FUNCTION_LINES);
    assert_eq!(found(sizes, "src/hub.rs", &format!("fn f(a: [u8; 2]) {{\n{body}}}")), 0);
    assert_eq!(found(sizes, "src/hub.rs", &format!("fn f(a: [u8; 2]) {{\n{body}y();\n}}")), 1);
    assert_eq!(found(sizes, "src/hub.rs", &format!("fn f() {{\n{body}// why\n\n}}")), 0);
    assert_eq!(found(sizes, "src/hub.rs", &"\n".repeat(FILE_LINES + 1)), 1);

    assert_eq!(
        found(shortcuts, "src/hub.rs", "fn f() { todo!() }\n#[ignore]\nfn g() { let a = \"todo!()\"; }"),
        2
    );
    assert_eq!(found(shortcuts, "src/hub.rs", "#[ignore = \"a minute\"]\n#[path = \"x.rs\"]\nmod y;"), 1);
    assert_eq!(
        found(leftovers, "a.md", concat!("a TO", "DO here\nsee `/home", "/ann/x`, not https://x/home/ann/x")),
        2
    );
    assert_eq!(
        found(shortcuts, "src/a/mod.rs", "mod log; mod tests; #[cfg(test)] #[expect(x)]\nmod testing;"),
        1
    );
    assert_eq!(found(leftovers, "p/package-lock.json", "  \"resolved\": \"https://r/x.tgz\","), 1);

    assert!(!opens_with_docs("use std::fs;") && !opens_with_docs("//!\n") && opens_with_docs("//! A log.\n"));
    assert_eq!(
        Source::new("src/bus/mod.rs", "mod a; // mod b;\npub mod c;").children()[2],
        Path::new("src/bus/c.rs")
    );
    let page =
        "[a](tests/tidy.rs#report) [b](tests/tidy.rs#gone) [c](nowhere.rs) [d](https://x/)\n```\n[e](x)\n```";
    assert_eq!(broken_links(&Source::new("page.md", page), &root()).len(), 2);
}

fn rust_files() -> Vec<Source> {
    texts().into_iter().filter(|file| file.is("rs")).collect()
}

fn report(problems: impl IntoIterator<Item = String>) {
    let problems: Vec<String> = problems.into_iter().collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

// The rules, one file at a time.

fn arrows(file: &Source) -> Vec<String> {
    let Some(module) = file.top_level() else { return Vec::new() };
    let Some((_, may_use, because)) = rows(LAYERS).find(|(name, ..)| *name == module) else {
        return vec![format!("{}: `{module}` has no row in LAYERS, tests/tidy.rs: place it", file.shown())];
    };
    let below: Vec<&str> = rows(LAYERS).map(|(name, ..)| name).take_while(|name| *name != module).collect();
    let uses = file.uses_from_the_root();
    let upward = uses.iter().filter(|(at, used)| {
        let allowed = if *at < file.production() { &may_use } else { &below };
        *used != module && !allowed.contains(&used.as_str())
    });
    let said =
        upward.map(|(at, used)| format!("{}: `{module}` may not use `{used}`: {because}", file.line(*at)));
    said.collect()
}

fn dependencies(file: &Source) -> Vec<String> {
    let Some(module) = file.top_level() else { return Vec::new() };
    let mut problems = Vec::new();
    let production = file.production();
    let foreign = rows(CRATES).filter(|(_, allowed, _)| !allowed.contains(&module.as_str()));
    for (dependency, allowed, because) in foreign {
        let (name, inner) = dependency.split_once("::").map_or((dependency, None), |(a, b)| (a, Some(b)));
        for at in file.path_roots(name).filter(|at| *at < production) {
            let path = file.code[at + name.len()..].strip_prefix("::");
            let named = match inner {
                Some(inner) => path.is_some_and(|path| first_segments(path).contains(&inner)),
                None => path.is_some() || file.code[..at].trim_end().ends_with("use"),
            };
            if named {
                let allowed = allowed.join(", ");
                problems.push(format!("{}: `{dependency}` belongs to {allowed}: {because}", file.line(at)));
            }
        }
    }
    problems
}

fn sizes(file: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = file.text.lines().count();
    if lines > FILE_LINES {
        problems.push(format!("{}: {lines} lines, at most {FILE_LINES}", file.shown()));
    }
    for at in file.words("fn") {
        let name = ident(file.code[at + 2..].trim_start());
        let Some(open) = body_start(&file.code, at).filter(|_| !name.is_empty()) else { continue };
        let body = &file.code[open + 1..closing(&file.code, open)];
        let count = body.lines().filter(|line| !line.trim().is_empty()).count();
        if count > FUNCTION_LINES {
            problems.push(format!("{}: `{name}` has {count} lines, at most {FUNCTION_LINES}", file.line(at)));
        }
    }
    problems
}

fn shortcuts(file: &Source) -> Vec<String> {
    let banned = [
        ("todo!", "finish it, or leave it out"),
        ("unimplemented!", "finish it, or leave it out"),
        ("#[ignore]", "say why: `#[ignore = \"…\"]`"),
        ("#[path", "a module is found where its name says"),
    ];
    let places = banned
        .iter()
        .flat_map(|(what, instead)| file.code.match_indices(what).map(move |(at, _)| (at, what, instead)));
    let said = places.map(|(at, what, instead)| format!("{}: `{what}`: {instead}", file.line(at)));
    let shipped =
        file.shipped_tests().into_iter().map(|at| format!("{}: not under `#[cfg(test)]`", file.line(at)));
    said.chain(shipped).collect()
}

fn leftovers(file: &Source) -> Vec<String> {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let homes = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
    let starts = |at: usize| !file.text[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./~".contains(c));
    let found = |what: &'static str| file.text.match_indices(what).map(|(at, _)| at).filter(|at| starts(*at));
    let mut problems = Vec::new();
    for at in notes.into_iter().flat_map(found) {
        problems.push(format!("{}: an open note; an issue is the place for it", file.line(at)));
    }
    for at in homes.into_iter().flat_map(found) {
        problems.push(format!("{}: a path that exists on one machine only", file.line(at)));
    }
    if file.path.ends_with("package-lock.json") {
        let hosts = file.text.match_indices("\"resolved\"").map(|(at, _)| file.line(at));
        problems.extend(hosts.map(|line| format!("{line}: names a registry; see .npmrc beside it")));
    }
    problems
}

fn opens_with_docs(text: &str) -> bool {
    text.lines().next().and_then(|line| line.strip_prefix("//!")).is_some_and(|line| !line.trim().is_empty())
}

fn broken_links(document: &Source, root: &Path) -> Vec<String> {
    let prose: String = document.text.split("```").step_by(2).collect();
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let ours = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    let broken = ours.filter(|target| {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file =
            if path.is_empty() { document.path.clone() } else { document.path.with_file_name("").join(path) };
        match fs::read_to_string(root.join(&file)) {
            Ok(text) => !anchor.is_empty() && !has_anchor(&file, &text, anchor),
            Err(_) => !anchor.is_empty() || !root.join(&file).is_dir(),
        }
    });
    broken.map(|target| format!("{}: the link to `{target}` leads nowhere", document.shown())).collect()
}

/// In Rust an anchor is the name of an item (`next`, `Cursor::next`), in Markdown a heading as GitHub spells it.
fn has_anchor(file: &Path, text: &str, anchor: &str) -> bool {
    if file.extension().is_some_and(|e| e == "rs") {
        let name = anchor.rsplit("::").next().unwrap_or(anchor);
        let source = Source::new("src/x.rs", text);
        let kinds = ["fn", "struct", "enum", "trait", "const", "static", "type", "mod", "macro_rules!"];
        return source
            .words(name)
            .any(|at| kinds.iter().any(|kind| source.code[..at].trim_end().ends_with(kind)));
    }
    let slug = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line.trim_start_matches('#')) == anchor)
}
