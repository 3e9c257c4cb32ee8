//! Event streams by the letter of WHATWG HTML §9.2: what may be written ([`parse`], §9.2.5) and what a client makes of it
//! ([`EventSource`], §9.2.6). Written from the standard alone, as the measure for a server's bytes; it opens no
//! connection and knows nothing of envelopes.

/// A byte order mark in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A stream taken apart by the grammar of §9.2.5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream<'a> {
    /// Whether it begins with a byte order mark.
    pub bom: bool,
    /// How many of its lines end in CR, LF and CR LF.
    pub line_ends: LineEnds,
    /// The lines of each event, without the blank one that ends it.
    pub events: Vec<Vec<Line<'a>>>,
    /// What stands behind the last event: one that has not ended yet.
    pub unfinished: &'a [u8],
}

/// Lines by their ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineEnds {
    /// Those in LF alone.
    pub lf: usize,
    /// Those in CR alone.
    pub cr: usize,
    /// Those in CR LF.
    pub crlf: usize,
}

/// A line that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// What stands behind the colon.
    Comment(&'a str),
    /// A field.
    Field {
        /// Its name.
        name: &'a str,
        /// Its value, without the one space that may stand before it.
        value: &'a str,
    },
}

/// Bytes that no server may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// §9.2.5: streams are always UTF-8.
    #[error("byte {at} is not UTF-8")]
    NotUtf8 {
        /// Where.
        at: usize,
    },
}

/// What a client dispatches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// Its type: `message`, if the stream says nothing else.
    pub kind: String,
    /// Its data, lines joined by LF.
    pub data: String,
    /// The last event id at this moment, inherited ones included.
    pub last_event_id: String,
}

/// A client's state over any number of connections (§9.2.2 and §9.2.6).
#[derive(Debug, Default)]
pub struct EventSource {
    last_event_id: String,
    reconnection_ms: Option<u64>,
    /// Before the first line of a stream has ended, which may carry a byte order mark.
    begun: bool,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    line: Vec<u8>,
    data: String,
    kind: String,
    id: String,
}

/// Takes the bytes of a stream apart.
///
/// # Errors
/// [`GrammarError`] for what the grammar does not allow. An event without its end is none: a stream may be cut.
pub fn parse(bytes: &[u8]) -> Result<Stream<'_>, GrammarError> {
    let bom = bytes.starts_with(BOM);
    let start = if bom { BOM.len() } else { 0 };
    let (mut line_ends, mut events, mut event) = (LineEnds::default(), Vec::new(), Vec::new());
    let (mut at, mut unfinished) = (start, start);
    while let Some(length) = bytes[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let text = std::str::from_utf8(&bytes[at..at + length])
            .map_err(|error| GrammarError::NotUtf8 { at: at + error.valid_up_to() })?;
        at += length + 1;
        if bytes[at - 1] == b'\n' {
            line_ends.lf += 1;
        } else if bytes.get(at) == Some(&b'\n') {
            line_ends.crlf += 1;
            at += 1;
        } else {
            line_ends.cr += 1;
        }
        if text.is_empty() {
            events.push(std::mem::take(&mut event));
            unfinished = at;
        } else {
            event.push(line(text));
        }
    }
    Ok(Stream { bom, line_ends, events, unfinished: &bytes[unfinished..] })
}

/// §9.2.6: the name ends at the first colon, one space behind it is dropped, and a line without one is all name.
fn line(text: &str) -> Line<'_> {
    match text.split_once(':') {
        Some(("", comment)) => Line::Comment(comment),
        Some((name, value)) => Line::Field { name, value: value.strip_prefix(' ').unwrap_or(value) },
        None => Line::Field { name: text, value: "" },
    }
}

impl EventSource {
    /// What the next request says in `Last-Event-ID`; without one, if it is empty (§9.2.3).
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long to wait before that request, in milliseconds, once the server has said so.
    pub fn reconnection_ms(&self) -> Option<u64> {
        self.reconnection_ms
    }

    /// Begins a new stream: what the last one left unfinished never was.
    ///
    /// The standard lets the id buffer begin empty, so that the first blank line of a stream would erase the id of the
    /// one before. No browser does that: Chromium, Firefox and Safari all keep the id until another one comes, and so
    /// does this.
    pub fn reconnect(&mut self) {
        let id = std::mem::take(&mut self.last_event_id);
        let reconnection_ms = self.reconnection_ms;
        *self = Self { id: id.clone(), last_event_id: id, reconnection_ms, ..Self::default() };
    }

    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Dispatched> {
        let mut dispatched = Vec::new();
        for byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    dispatched.extend(self.end_line());
                }
                _ => self.line.push(*byte),
            }
        }
        dispatched
    }

    fn end_line(&mut self) -> Option<Dispatched> {
        let mut bytes = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && bytes.starts_with(BOM) {
            bytes.drain(..BOM.len());
        }
        // Line ends are ASCII: decoding each line for itself is decoding the stream.
        let text = String::from_utf8_lossy(&bytes);
        if text.is_empty() {
            return self.dispatch();
        }
        if let Line::Field { name, value } = line(&text) {
            self.process(name, value);
        }
        None
    }

    fn process(&mut self, name: &str, value: &str) {
        match name {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // An empty value has digits only, too, and no number in it. Beyond 64 bits it's longer than any wait.
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.reconnection_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Dispatched> {
        self.last_event_id.clone_from(&self.id);
        let (mut data, kind) = (std::mem::take(&mut self.data), std::mem::take(&mut self.kind));
        if data.is_empty() {
            return None;
        }
        data.pop();
        let kind = if kind.is_empty() { "message".to_owned() } else { kind };
        Some(Dispatched { kind, data, last_event_id: self.last_event_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str, id: &str) -> Dispatched {
        Dispatched { kind: "message".to_owned(), data: data.to_owned(), last_event_id: id.to_owned() }
    }

    /// What comes of a stream, which must not depend on how the network cuts it.
    fn dispatched(bytes: &[u8]) -> (Vec<Dispatched>, EventSource) {
        let mut whole = EventSource::default();
        let events = whole.feed(bytes);
        for size in 1..bytes.len().min(8) {
            let mut source = EventSource::default();
            let pieces: Vec<_> = bytes.chunks(size).flat_map(|piece| source.feed(piece)).collect();
            assert_eq!(pieces, events, "in pieces of {size}");
        }
        (events, whole)
    }

    #[test]
    fn the_examples_of_the_standard() {
        let (events, _) = dispatched(b"data: YHOO\ndata: +2\ndata: 10\n\n");
        assert_eq!(events, [event("YHOO\n+2\n10", "")]);
        let four =
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
        let (events, source) = dispatched(four);
        assert_eq!(events, [event("first event", "1"), event("second event", "")]);
        assert_eq!(source.last_event_id(), "");
        assert_eq!(dispatched(b"data\n\ndata\ndata\n\ndata:").0, [event("", ""), event("\n", "")]);
        assert_eq!(dispatched(b"data:test\n\ndata: test\n\n").0, [event("test", ""), event("test", "")]);
    }

    #[test]
    fn all_three_line_ends_and_one_byte_order_mark() {
        let (events, _) = dispatched(b"\xef\xbb\xbfdata: a\r\rdata: b\r\n\r\ndata: c\n\ndata: d\r\n\r");
        assert_eq!(events, ["a", "b", "c", "d"].map(|data| event(data, "")));
        assert!(
            dispatched(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n").0.is_empty(),
            "the second is part of the name"
        );
        assert!(dispatched(b"\n\xef\xbb\xbfdata: a\n\n").0.is_empty(), "and so is a late one");
    }

    #[test]
    fn ids_last_until_another_comes_and_a_null_is_none() {
        let (events, source) = dispatched(b"id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\nid: 3\n\n");
        assert_eq!(events, [event("a", "1"), event("b", "1"), event("c", "1")]);
        assert_eq!(source.last_event_id(), "3", "even without data");
        assert_eq!(dispatched(b"id: 1\ndata: a\n").1.last_event_id(), "", "not before its blank line");
    }

    #[test]
    fn retry_takes_digits_alone() {
        for (stream, wanted) in [
            (&b"retry: 10\n"[..], Some(10)),
            (b"retry:0\n", Some(0)),
            (b"retry:  10\n", None),
            (b"retry: 1e3\n", None),
            (b"retry: -1\n", None),
            (b"retry: +1\n", None),
            (b"retry\n", None),
            (b"retry: 10", None),
            (b"retry: 10\nretry: x\n", Some(10)),
            (b"Retry: 10\n", None),
        ] {
            assert_eq!(dispatched(stream).1.reconnection_ms(), wanted, "{}", String::from_utf8_lossy(stream));
        }
    }

    #[test]
    fn types_and_unknown_fields() {
        let (events, _) =
            dispatched(b"event: a\ndata: 1\n\nevent: b\n\ndata: 2\nfoo: 3\n data: 4\ndata : 5\n\n");
        assert_eq!(events, [Dispatched { kind: "a".to_owned(), ..event("1", "") }, event("2", "")]);
        assert_eq!(dispatched(b"data: \xff\xc3\n\n").0, [event("\u{fffd}\u{fffd}", "")]);
    }

    #[test]
    fn a_reconnect_keeps_the_id_and_drops_the_rest() {
        let mut source = EventSource::default();
        assert_eq!(source.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b"), [event("a", "1")]);
        source.reconnect();
        assert_eq!(source.feed(b"\xef\xbb\xbfretry: 5\n\ndata: c\n\n"), [event("c", "1")]);
        assert_eq!((source.last_event_id(), source.reconnection_ms()), ("1", Some(5)));
    }

    #[test]
    fn a_stream_is_taken_apart_to_the_last_line_end() {
        let stream = parse(b"retry: 5\n\n: x\r\ndata\n\rid:7\r\ndata: {}\n\n\ndata: a").unwrap();
        let field = |name, value| Line::Field { name, value };
        assert!(!stream.bom);
        assert_eq!(stream.line_ends, LineEnds { lf: 6, cr: 1, crlf: 2 });
        assert_eq!(stream.events[0], [field("retry", "5")]);
        assert_eq!(stream.events[1], [Line::Comment(" x"), field("data", "")]);
        assert_eq!(stream.events[2], [field("id", "7"), field("data", "{}")]);
        assert!(stream.events[3].is_empty());
        assert_eq!(stream.unfinished, b"data: a");
        assert!(parse(b"\xef\xbb\xbf\n").unwrap().bom);
        assert_eq!(parse(b"data: \xc3\n\n"), Err(GrammarError::NotUtf8 { at: 6 }));
    }
}
