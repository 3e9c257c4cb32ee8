//! What the checks see on the wire, written down where `CONFORMANCE_TRAFFIC` says, so that it can be held against the
//! protocol's documents when they are done (`tests/clients/traffic.py`). Called where envelopes and HTTP answers are
//! read; without that variable it does nothing. It judges nothing, and never changes what a check sees.

use std::fs::{File, create_dir_all};
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::edge::environment;
use crate::wire::{Request, Response};

/// So many of what there are many of (messages, HTTP answers) are all written, and after that one in [`SAMPLE`].
const ALL: usize = 1000;
const SAMPLE: usize = 64;
/// Records of one process, a bound for the disk: some 100 MB.
const RECORDS_MAX: usize = 200_000;

struct Recorder {
    file: File,
    records: AtomicUsize,
    messages: AtomicUsize,
    answers: AtomicUsize,
}

/// An envelope of the server; of `message`s, a sample.
pub fn said(kind: &str, envelope: &[u8]) {
    let Some(recorder) = recorder() else { return };
    if kind == "message" && !is_sampled(&recorder.messages) {
        return;
    }
    recorder.write(&[b"{\"said\":", envelope, b"}\n"].concat());
}

/// A request and its whole answer; a sample of them.
pub fn exchanged(request: &Request, response: &Response) {
    let Some(recorder) = recorder() else { return };
    if !is_sampled(&recorder.answers) {
        return;
    }
    let Response { head, body } = response;
    let mut headers = serde_json::Map::new();
    for (name, value) in &head.headers {
        headers.insert(name.clone(), value.as_str().into());
    }
    let record = json!({"exchange": {
        "method": request.method(),
        "target": request.path(),
        "status": head.status,
        "content_type": head.header("content-type"),
        "headers": headers,
        "body": String::from_utf8_lossy(body),
        "request_body": request.body().map(String::from_utf8_lossy),
    }});
    recorder.write(format!("{record}\n").as_bytes());
}

/// The one of this process, made when it is first needed.
fn recorder() -> Option<&'static Recorder> {
    static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();
    // What this package's unit tests read has been said by no server.
    if cfg!(test) {
        return None;
    }
    RECORDER.get_or_init(|| environment::traffic_folder().map(|folder| Recorder::new(&folder))).as_ref()
}

fn is_sampled(seen: &AtomicUsize) -> bool {
    let seen = seen.fetch_add(1, Ordering::Relaxed);
    seen < ALL || seen.is_multiple_of(SAMPLE)
}

impl Recorder {
    /// A check that was asked to leave a record and can't would be held against nothing: it fails here.
    fn new(folder: &Path) -> Self {
        let file = folder.join(format!("{}.jsonl", std::process::id()));
        let file = create_dir_all(folder).and_then(|()| File::create(&file));
        let file = file.unwrap_or_else(|error| panic!("CONFORMANCE_TRAFFIC={}: {error}", folder.display()));
        Self {
            file,
            records: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
        }
    }

    /// A line in one write, so that those of several threads don't mix. An envelope that is no JSON, or not on one
    /// line, makes a record that is none, and is found by that.
    fn write(&self, line: &[u8]) {
        if self.records.fetch_add(1, Ordering::Relaxed) < RECORDS_MAX {
            (&self.file).write_all(line).expect("the folder of CONFORMANCE_TRAFFIC takes what is written");
        }
    }
}
