//! The head of a poll, as it came, but for its cursor: who polls in a loop sends the same one over and over, and all that
//! was made of it the first time can be kept for the next. Asked by `server/http1.rs` and by who polls; parses nothing
//! that hyper has not parsed before. Holds no head, only a keyed hash of one.

use std::num::NonZeroU64;

/// The longest that is known again: what one read takes.
pub const HEAD_BYTES_MAX: usize = 2048;
/// One for each word of the longest; for their lengths, and for the last word of both parts.
const KEYS: usize = HEAD_BYTES_MAX / 8 + 4;

/// Tells heads apart by a hash whose keys nobody outside has: whoever could aim at it would at best pass for who asked
/// before it on the same connection. Multilinear, in 128 bits of which the upper 64 count: for any two heads, whoever chose
/// them, the keys under which they are the same are one in 2⁶³ (Lemire and Kaser, Strongly universal string hashing is
/// fast, 2014, §2.1). `SipHash`, in 64 bits as well, takes three times as long, and is most of a poll then.
pub struct Heads(Box<[u128]>);

/// A head but for the value of its cursor. Never 0, so that an absent one takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(NonZeroU64);

/// Where a head has the value of its cursor, in bytes from its beginning.
pub type Place = u16;

const BEGIN: &[u8] = b"GET /v1/poll?";
const CURSOR: &[u8] = b"cursor=";
const END: &[u8] = b"\r\n\r\n";

impl Heads {
    /// What to know that request by, and where its cursor is; `None` unless it is a poll's whole head, with one cursor of
    /// which nothing is encoded.
    pub fn of(&self, request: &[u8]) -> Option<(Head, Place)> {
        let target = request.strip_prefix(BEGIN)?;
        let query = &target[..target.iter().position(|byte| *byte == b' ')?];
        let mut begin = BEGIN.len();
        let mut place = None;
        for pair in query.split(|byte| *byte == b'&') {
            if pair.starts_with(CURSOR)
                && place.replace((begin + CURSOR.len(), pair.len() - CURSOR.len())).is_some()
            {
                return None;
            }
            begin += pair.len() + 1;
        }
        let (at, length) = place?;
        let cursor = &request[at..at + length];
        let is_plain = cursor.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        if cursor.is_empty() || !is_plain || !request.ends_with(END) || request.len() > HEAD_BYTES_MAX {
            return None;
        }
        let place = Place::try_from(at).ok()?;
        Some((self.without(request, at, length), place))
    }

    /// Whether that request is `head` again, with that cursor there.
    pub fn is_again(&self, head: Head, place: Place, request: &[u8], cursor: &[u8]) -> bool {
        let at = usize::from(place);
        let is_there = request.get(at..).is_some_and(|rest| rest.starts_with(cursor));
        request.len() <= HEAD_BYTES_MAX && is_there && self.without(request, at, cursor.len()) == head
    }

    /// Of both parts with their lengths: bytes that move from one to the other make another head.
    fn without(&self, request: &[u8], at: usize, length: usize) -> Head {
        let parts = [&request[..at], &request[at + length..]];
        let (first, others) = self.0.split_first().expect("there are some");
        let (mut sum, mut keys) = (*first, others.iter());
        let mut add = |word: u64| {
            let key = keys.next().expect("there is one for each word of the longest");
            sum = sum.wrapping_add(key.wrapping_mul(word.into()));
        };
        add((parts[0].len() as u64) << 32 | parts[1].len() as u64);
        for part in parts {
            let (words, rest) = part.as_chunks();
            for word in words {
                add(u64::from_le_bytes(*word));
            }
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            add(u64::from_le_bytes(last));
        }
        // A product's upper half.
        Head(NonZeroU64::MIN | u64::try_from(sum >> 64).unwrap_or(u64::MAX))
    }
}

impl Default for Heads {
    /// With keys of its own.
    fn default() -> Self {
        Self((0..KEYS).map(|_| rand::random()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "GET /v1/poll?channels=a&cursor=";
    const AFTER: &str = "&wait=60 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer b\r\n\r\n";

    #[test]
    fn a_head_is_the_same_with_another_cursor_and_with_no_other_change() {
        let heads = Heads::default();
        let (head, place) = heads.of([BEFORE, "AbC-_9", AFTER].concat().as_bytes()).unwrap();
        assert_eq!(usize::from(place), BEFORE.len());
        let is_again =
            |request: &str, cursor: &str| heads.is_again(head, place, request.as_bytes(), cursor.as_bytes());
        for cursor in ["AbC-_9", "x", "xyz0123456789"] {
            let request = [BEFORE, cursor, AFTER].concat();
            assert!(is_again(&request, cursor), "{cursor}");
            assert_eq!(heads.of(request.as_bytes()), Some((head, place)), "{cursor}");
            // Another one than the answer had.
            for other in ["", "X", "AbC-_9x", &cursor[..cursor.len() - 1], &format!("{cursor}&")] {
                assert!(!is_again(&request, other), "{cursor} {other}");
            }
            for at in 0..request.len() {
                let mut changed = request.clone().into_bytes();
                changed[at] ^= 1;
                assert!(!heads.is_again(head, place, &changed, cursor.as_bytes()), "{cursor}, byte {at}");
                assert!(!is_again(&request[..at], cursor), "{cursor}, {at} bytes");
            }
            assert!(!is_again(&format!("{request}G"), cursor));
        }
        // Bytes that move across the place of the cursor.
        assert!(!is_again(&[BEFORE, "&x", AFTER].concat(), ""));
        assert!(!Heads::default().is_again(head, place, [BEFORE, "x", AFTER].concat().as_bytes(), b"x"));
    }

    #[test]
    fn what_is_no_poll_with_one_plain_cursor_is_none() {
        let heads = Heads::default();
        let of = |request: &str| heads.of(request.as_bytes()).is_some();
        let request = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        for good in
            ["/v1/poll?cursor=a", "/v1/poll?cursor=a&b", "/v1/poll?b&cursor=a", "/v1/poll?acursor=b&cursor=a"]
        {
            assert!(of(&request(good)), "{good}");
        }
        for bad in [
            "/v1/poll",
            "/v1/poll?",
            "/v1/poll?channels=a",
            "/v1/poll?cursor",
            "/v1/poll?cursor=",
            "/v1/poll?cursor=&a",
            "/v1/poll?cursor=a%41",
            "/v1/poll?cursor=a+b",
            "/v1/poll?cursor=a#b",
            "/v1/poll?cursor=a=",
            "/v1/poll?cursor=a&cursor=a",
            "/v1/poll?cursor=a&b&cursor=",
            "/v1/poll?acursor=a",
            "/v1/poll?Cursor=a",
            "/v1/poll?%63ursor=a",
            "/v1/poll/?cursor=a",
            "/v1/sse?cursor=a",
            "http://a/v1/poll?cursor=a",
        ] {
            assert!(!of(&request(bad)), "{bad}");
        }
        let whole = request("/v1/poll?cursor=a");
        assert!(of(
            &whole.replace("host: a", &format!("host: {}", "a".repeat(1 + HEAD_BYTES_MAX - whole.len())))
        ));
        assert!(!of(
            &whole.replace("host: a", &format!("host: {}", "a".repeat(2 + HEAD_BYTES_MAX - whole.len())))
        ));
        assert!(
            !of(&whole[..whole.len() - 1]) && !of(&format!("{whole}G")) && !of(&whole.replace("GET", "HEAD"))
        );
    }
}
