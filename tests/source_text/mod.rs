//! A source file as text, and just enough Rust to tell code from comments and strings, to find modules,
//! paths and function bodies. `tidy` reads the whole tree through it. It parses nothing it does not need
//! and is content to be wrong about macros.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const IGNORED: &[&str] =
    &["target", "node_modules", "__pycache__", ".git", ".venv", ".pytest_cache", "corpus", "artifacts"];

/// What modules of unit tests are called.
const TESTS: &[&str] = &["tests", "testing"];

/// A file and, for Rust, the same text with comments and the insides of literals blanked, byte for byte.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut source = Self { path: PathBuf::from(path), text: text.to_owned(), code: String::new() };
        if source.is("rs") {
            source.code = blanked(text);
        }
        source
    }

    pub(crate) fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|own| own == extension)
    }

    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    pub(crate) fn line(&self, at: usize) -> String {
        format!("{}:{}", self.shown(), self.text[..at].matches('\n').count() + 1)
    }

    /// The module of `src/` this file belongs to; none for `lib.rs`, which only lists them, and outside `src/`.
    pub(crate) fn top_level(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src").ok()?;
        let first = inside.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
        (first != "lib").then_some(first)
    }

    /// Where the code ends that is part of the product: unit tests come last, or in a file of that name.
    pub(crate) fn production(&self) -> usize {
        if self.path.file_stem().is_some_and(|stem| TESTS.iter().any(|name| stem == *name)) {
            return 0;
        }
        self.test_modules().next().unwrap_or(self.code.len())
    }

    /// Where `src/` declares a module of tests without `#[cfg(test)]`.
    pub(crate) fn shipped_tests(&self) -> Vec<usize> {
        let item = |at: usize| &self.code[self.code[..at].rfind([';', '}']).map_or(0, |end| end + 1)..at];
        let shipped = self.test_modules().filter(|at| !item(*at).contains("#[cfg(test)]"));
        shipped.filter(|_| self.top_level().is_some()).collect()
    }

    fn test_modules(&self) -> impl Iterator<Item = usize> + '_ {
        self.words("mod").filter(|at| TESTS.contains(&ident(self.code[at + 3..].trim_start())))
    }

    /// Files that a `mod name;` line here may mean; those that do not exist are the compiler's business.
    pub(crate) fn children(&self) -> Vec<PathBuf> {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let here = self.path.with_file_name("");
        let folder = if stem == "mod" || is_crate_root(&self.path) { here } else { here.join(stem) };
        let declared = self.words("mod").map(|at| self.code[at + 3..].trim_start());
        let names =
            declared.filter(|rest| rest[ident(rest).len()..].trim_start().starts_with(';')).map(ident);
        names.flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]).collect()
    }

    /// Where `word` stands as a whole word of code.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let whole = move |at: &usize| {
            !self.code[..*at].ends_with(is_ident) && !self.code[at + word.len()..].starts_with(is_ident)
        };
        self.code.match_indices(word).map(|(at, _)| at).filter(whole)
    }

    /// Where `word` begins a path: not a later segment of one, not a field or method.
    pub(crate) fn path_roots<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.words(word).filter(|at| {
            let before = &self.code[..*at];
            let inner =
                before.strip_suffix("::").is_some_and(|path| path.ends_with(|c| is_ident(c) || c == '>'));
            let member = before.ends_with('.') && !before.ends_with("..");
            !inner && !member
        })
    }

    /// Top-level modules named here by `crate::…`, by the library's own name, or by climbing `super::`.
    pub(crate) fn uses_from_the_root(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for name in ["crate", "tidegate"] {
            for at in self.path_roots(name) {
                let segments = self.code[at + name.len()..].strip_prefix("::").map(first_segments);
                found.extend(segments.into_iter().flatten().map(|segment| (at, segment.to_owned())));
            }
        }
        // What `super` leads to in a crate's root is that file's own.
        for at in self.path_roots("super").filter(|_| !is_crate_root(&self.path)) {
            let mut rest = &self.code[at..];
            let mut climbed = 0;
            while let Some(further) = rest.strip_prefix("super::") {
                (rest, climbed) = (further, climbed + 1);
            }
            if climbed >= self.depth(at) {
                found.extend(first_segments(rest).into_iter().map(|segment| (at, segment.to_owned())));
            }
        }
        found
    }

    /// How many modules deep the code at `at` is below the crate's root, inline modules included.
    fn depth(&self, at: usize) -> usize {
        let unnamed = usize::from(self.path.ends_with("mod.rs"));
        let inline = self.words("mod").filter(|start| {
            let open = body_start(&self.code, *start);
            open.is_some_and(|open| open < at && at < closing(&self.code, open))
        });
        self.path.iter().count() - 1 - unnamed + inline.count()
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file that would be committed, paths relative to the root.
pub(crate) fn texts() -> Vec<Source> {
    let mut open = vec![root()];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("the tree is readable") {
            let entry = entry.expect("the tree is readable");
            let path = entry.path();
            let inside = path.strip_prefix(root()).expect("found below the root").to_owned();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let made =
                inside.starts_with("certs") && !["certs", "README.md", "make-dev-cert.sh"].contains(&name);
            if IGNORED.contains(&name) || made {
                continue;
            }
            if entry.file_type().expect("the tree is readable").is_dir() {
                open.push(path);
            } else if let (Ok(text), Some(inside)) = (fs::read_to_string(&path), inside.to_str()) {
                found.push(Source::new(inside, &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(|file| file.path == Path::new("src/lib.rs")), "the walk finds the sources");
    found
}

/// Of Rust files, those that Cargo finds by itself and makes the root of a crate.
pub(crate) fn is_crate_root(path: &Path) -> bool {
    let packages = ["conformance", "fuzz"];
    let own = packages.iter().find_map(|package| path.strip_prefix(package).ok()).unwrap_or(path);
    let parts: Vec<&str> = own.iter().filter_map(|part| part.to_str()).collect();
    matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["tests" | "benches" | "examples" | "fuzz_targets", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
            | ["src", "bin", _]
    )
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub(crate) fn ident(text: &str) -> &str {
    &text[..text.find(|c| !is_ident(c)).unwrap_or(text.len())]
}

/// The first names of a use tree or path: `a::b` is `a`, `{a::b, c::{d, e}}` is `a` and `c`.
pub(crate) fn first_segments(tree: &str) -> Vec<&str> {
    let tree = tree.trim_start();
    if !tree.starts_with('{') {
        return vec![if tree.starts_with('*') { "*" } else { ident(tree) }];
    }
    let inside = &tree[1..closing(tree, 0)];
    let mut nested = 0_i32;
    let parts = inside.split(|c| {
        nested += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && nested == 0
    });
    parts.filter(|part| !part.trim().is_empty()).flat_map(first_segments).collect()
}

/// The `{` of an item that begins at `at`, or none if the item ends in `;`.
pub(crate) fn body_start(code: &str, at: usize) -> Option<usize> {
    let mut nested = 0_i32;
    for (offset, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            '{' if nested == 0 => return Some(at + offset),
            ';' if nested == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The `}` that belongs to the `{` at `open`; the end of the text if there is none.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut nested = 0_i32;
    for (offset, c) in code[open..].char_indices() {
        nested += i32::from(c == '{') - i32::from(c == '}');
        if nested == 0 {
            return open + offset;
        }
    }
    code.len()
}

/// The text with comments as spaces and the insides of literals as `_`, so that offsets and lines stay.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, filler) = match c {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), ' '),
            '/' if rest.starts_with("/*") => (comment_length(rest), ' '),
            '"' | '\'' | 'r' | 'b' | 'c' if !out.ends_with(is_ident) => (literal_length(rest), '_'),
            _ => (0, ' '),
        };
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..length].bytes().map(|byte| if byte == b'\n' { '\n' } else { filler }));
            rest = &rest[length..];
        }
    }
    out
}

fn comment_length(text: &str) -> usize {
    let mut nested = 0_u32;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (nested, at) = (nested + 1, at + 2),
            [b'*', b'/', ..] => (nested, at) = (nested - 1, at + 2),
            _ => at += 1,
        }
        if nested == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string or character literal that `text` begins with; 0 if it begins with none.
fn literal_length(text: &str) -> usize {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let body = &text[prefix..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    if text[..prefix].contains('r') && body[hashes..].starts_with('"') && prefix <= 2 {
        let end = format!("\"{}", "#".repeat(hashes));
        return body[hashes + 1..].find(&end).map_or(text.len(), |at| prefix + hashes + 1 + at + end.len());
    }
    let quote = body.chars().next().filter(|c| (*c == '"' || *c == '\'') && prefix <= 1);
    let Some(quote) = quote else { return 0 };
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        // A quote that is not closed after one character is a lifetime.
        if quote == '\'' && at > 1 && !body[1..].starts_with('\\') && body[1..].chars().nth(1) != Some('\'') {
            return 0;
        }
        if c == quote && !escaped {
            return prefix + at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    if quote == '"' { text.len() } else { 0 }
}
