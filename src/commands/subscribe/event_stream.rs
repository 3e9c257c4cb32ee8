//! Bytes of an event stream into events (WHATWG HTML §9.2.6), as a browser's `EventSource` reads them. It knows
//! nothing of envelopes or connections.

use std::time::Duration;

/// Reads one stream from its beginning; the last event's ID is what the next connection begins with.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    data: String,
    has_data: bool,
    id: String,
    last_event_id: String,
    retry: Option<Duration>,
}

/// An event is longer than [`EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Longest event, in bytes: beyond what `limits.message_bytes` lets through.
const EVENT_BYTES: usize = 80 << 20;

impl EventStream {
    /// Goes on after that event.
    pub(super) fn after(last_event_id: String) -> Self {
        Self { id: last_event_id.clone(), last_event_id, ..Self::default() }
    }

    /// Reads a piece of the stream, however it was cut, and hands the data of each event that it completes to
    /// `events`, with [`Self::last_event_id`] as it was then.
    ///
    /// # Errors
    /// [`TooLong`]; the stream is of no use then.
    pub(super) fn read(
        &mut self,
        mut piece: &[u8],
        events: &mut Vec<(String, String)>,
    ) -> Result<(), TooLong> {
        while let Some(first) = piece.first() {
            // The second half of a CRLF that may have come in two pieces.
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let Some(end) = piece.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                self.line.extend_from_slice(piece);
                break;
            };
            self.line.extend_from_slice(&piece[..end]);
            self.after_cr = piece[end] == b'\r';
            piece = &piece[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Some(data) = self.take_line(&String::from_utf8_lossy(&line)) {
                events.push((data, self.last_event_id.clone()));
            }
        }
        if self.line.len() + self.data.len() > EVENT_BYTES { Err(TooLong) } else { Ok(()) }
    }

    /// What a new connection names as `Last-Event-ID`; empty before the first.
    pub(super) fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long to wait before a new connection, if the stream said so.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The data of the event that ends with this line.
    fn take_line(&mut self, line: &str) -> Option<String> {
        let line = if std::mem::replace(&mut self.begun, true) {
            line
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(line)
        };
        if line.is_empty() {
            // The ID counts even where there is no data, and so no event.
            self.last_event_id.clone_from(&self.id);
            return std::mem::take(&mut self.has_data).then(|| std::mem::take(&mut self.data));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            // A comment, the name of an event, or what a later version may mean.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &mut EventStream, text: &str) -> Vec<(String, String)> {
        let mut events = Vec::new();
        stream.read(text.as_bytes(), &mut events).unwrap();
        events
    }

    fn data(text: &str) -> Vec<String> {
        read(&mut EventStream::default(), text).into_iter().map(|(data, _)| data).collect()
    }

    #[test]
    fn the_examples_of_the_standard() {
        // WHATWG HTML §9.2.6, the examples at its end.
        assert_eq!(data("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        let text =
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let events = read(&mut EventStream::default(), text);
        let expected = [("first event", "1"), ("second event", ""), (" third event", "")];
        assert_eq!(events, expected.map(|(data, id)| (data.to_owned(), id.to_owned())));
        assert_eq!(data("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(data("data:test\n\ndata: test\n\n"), ["test", "test"]);
    }

    #[test]
    fn any_line_end_and_any_cut() {
        let text = "\u{feff}id: a\r\ndata: ü1\r\r\ndata: 2\rid: b\r\r: end\n\ndata: 3\n\n";
        let whole = read(&mut EventStream::default(), text);
        let expected = [("ü1", "a"), ("2", "b"), ("3", "b")];
        assert_eq!(whole, expected.map(|(data, id)| (data.to_owned(), id.to_owned())));
        for size in 1..text.len() {
            let (mut stream, mut events) = (EventStream::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                stream.read(piece, &mut events).unwrap();
            }
            assert_eq!(events, whole, "pieces of {size}");
        }
    }

    #[test]
    fn ids_and_waits_are_kept() {
        let mut stream = EventStream::after("old".to_owned());
        assert_eq!(read(&mut stream, "data: x\n\n"), [("x".to_owned(), "old".to_owned())]);
        read(&mut stream, "id: new\n");
        assert_eq!(stream.last_event_id(), "old", "an ID counts from the end of its event");
        read(&mut stream, "retry: 1500\n\nid: a\0b\n\nretry: 1s\nretry:\n\n");
        assert_eq!(stream.last_event_id(), "new");
        assert_eq!(stream.retry(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn other_fields_and_unfinished_events_are_nothing() {
        assert_eq!(data("event: x\nfoo: bar\n data: x\nDATA: x\n\n"), [""; 0]);
        assert_eq!(data("data: cut"), [""; 0]);
        assert_eq!(data("data: cut\n"), [""; 0]);
        assert_eq!(data("data: 1\n\n\n\ndata: 2\n\n"), ["1", "2"]);
    }

    #[test]
    fn an_event_without_end_is_too_long() {
        let (mut stream, mut events) = (EventStream::default(), Vec::new());
        let piece = vec![b'x'; 1 << 20];
        let read = (0..=80).try_for_each(|_| stream.read(&piece, &mut events));
        assert_eq!(read, Err(TooLong));
        let mut stream = EventStream::default();
        let piece = [b"data:".as_slice(), &piece, b"\n"].concat();
        assert_eq!((0..=80).try_for_each(|_| stream.read(&piece, &mut events)), Err(TooLong));
    }
}
