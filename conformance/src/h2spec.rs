//! h2spec's verdicts on the edge (the suite for RFC 7540 and 7541 by summerwind), compared with what is expected of each
//! case. It runs the suite's binary and reads its report; what a case is about is the suite's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Cases in the suite, the strict ones included; fewer were not run.
pub const CASES: usize = 146;
/// The section whose cases are about bodies, and a resource that reads them. Elsewhere the cases look what becomes of
/// frames on a stream that has been asked for: the answer must not have been faster than they are.
const BODIES: (&str, &str) = ("http2/8.1", "/v1/channels/h2spec/messages");

/// Section and name of a case.
pub type Case = (String, String);

/// What a report says: whether each case has passed.
pub type Verdicts = BTreeMap<Case, bool>;

/// Runs the whole suite against a server that speaks TLS. `slow` is a path whose `GET` is answered after a second.
///
/// # Errors
/// When the suite does not run, or leaves no report.
pub fn run(h2spec: &Path, server: SocketAddr, slow: &str, folder: &Path) -> std::io::Result<Verdicts> {
    let (section, path) = BODIES;
    let mut verdicts = run_sections(h2spec, server, slow, &[], &folder.join("all.xml"))?;
    verdicts.extend(run_sections(h2spec, server, path, &[section], &folder.join("bodies.xml"))?);
    Ok(verdicts)
}

fn run_sections(
    h2spec: &Path,
    server: SocketAddr,
    path: &str,
    sections: &[&str],
    report: &Path,
) -> std::io::Result<Verdicts> {
    // It exits with 1 when a case has failed, which the report tells better.
    Command::new(h2spec)
        .args(["--strict", "--tls", "--insecure", "--timeout", "5", "--path", path])
        .args(["--host", &server.ip().to_string(), "--port", &server.port().to_string(), "--junit-report"])
        .arg(report)
        .args(sections)
        .stdin(Stdio::null())
        .status()?;
    Ok(read(&std::fs::read_to_string(report)?))
}

/// Reads the report: a `testcase` for each case, with a child in it unless it has passed.
pub fn read(report: &str) -> Verdicts {
    let cases = report.split("<testcase ").skip(1);
    let verdict = |text: &str| {
        let attribute = |name: &str| {
            let value = text.split_once(&format!("{name}=\""))?.1.split_once('"')?.0;
            Some(unescape(value))
        };
        let (_, inside) = text.split_once('>')?;
        let passed = inside.trim_start().starts_with("</testcase>");
        Some(((attribute("package")?, attribute("classname")?), passed))
    };
    cases.filter_map(verdict).collect()
}

/// Reads the list of what is expected not to pass.
///
/// # Errors
/// The line that is no `section | case | reason`.
pub fn expectations(text: &str) -> Result<BTreeSet<Case>, String> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let case = |line: &str| {
        let mut cells = line.split(" | ");
        match (cells.next(), cells.next(), cells.next(), cells.next()) {
            (Some(section), Some(name), Some(reason), None) if !reason.is_empty() => {
                Ok((section.to_owned(), name.to_owned()))
            }
            _ => Err(line.to_owned()),
        }
    };
    lines.map(case).collect()
}

/// Where verdicts and expectations differ, either way.
pub fn compare(verdicts: &Verdicts, expected: &BTreeSet<Case>) -> Vec<String> {
    let mut problems = Vec::new();
    if verdicts.len() != CASES {
        problems.push(format!("{} cases were run instead of {CASES}", verdicts.len()));
    }
    for ((section, name), passed) in verdicts {
        let excused = expected.contains(&(section.clone(), name.clone()));
        match (passed, excused) {
            (false, false) => problems.push(format!("{section}: {name}: does not pass")),
            (true, true) => problems.push(format!("{section}: {name}: passes, and is expected not to")),
            _ => {}
        }
    }
    for (section, name) in expected.iter().filter(|case| !verdicts.contains_key(*case)) {
        problems.push(format!("{section}: {name}: is expected not to pass, and there is no such case"));
    }
    problems
}

/// The five of XML, and the quotes as numbers, which is how Go writes them.
fn unescape(text: &str) -> String {
    let named =
        [("&#34;", "\""), ("&#39;", "'"), ("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<testsuites>
        <testsuite name="1" package="generic/1" tests="1" failures="1">
          <testcase package="generic/1" classname="Sends &#34;x&#34; &amp; y" time="0.0010"></testcase>
          <testcase package="http2/6" classname="Sends z" time="2.0">
            <failure>The endpoint MUST</failure>
          </testcase>
        </testsuite></testsuites>"#;

    #[test]
    fn a_report_is_read_and_compared_both_ways() {
        let verdicts = read(REPORT);
        let case = |section: &str, name: &str| (section.to_owned(), name.to_owned());
        assert!(verdicts[&case("generic/1", "Sends \"x\" & y")]);
        assert!(!verdicts[&case("http2/6", "Sends z")]);

        let too_few = "2 cases were run instead of 146";
        let none = BTreeSet::new();
        assert_eq!(compare(&verdicts, &none), [too_few, "http2/6: Sends z: does not pass"]);
        let right = expectations("# why\nhttp2/6 | Sends z | a reason\n").unwrap();
        assert_eq!(compare(&verdicts, &right), [too_few]);
        let wrong =
            expectations("http2/6 | Sends z | a reason\ngeneric/1 | Sends \"x\" & y | another\n9 | a | b");
        assert_eq!(compare(&verdicts, &wrong.unwrap()).len(), 3);
        assert_eq!(expectations("http2/6 | Sends z").unwrap_err(), "http2/6 | Sends z");
    }
}
