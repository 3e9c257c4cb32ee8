//! Which compression a client and we agree on in the handshake: permessage-deflate (RFC 7692) without context between
//! messages in either direction, so that a message is compressed once for all and no connection keeps a compressor.

use std::num::NonZero;

use hyper::HeaderMap;
use hyper::header::SEC_WEBSOCKET_EXTENSIONS;
use hyper::http::HeaderValue;

/// What we answer in every case.
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The window that DEFLATE has where nothing else is agreed, as a power of two.
const WINDOW_BITS: NonZero<u8> = NonZero::new(15).expect("15 is not 0");
/// Extensions of one handshake that are looked at; a browser offers one.
const OFFERS_MAX: usize = 32;

/// Compression, as it was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// Shorter messages are sent as they are.
    pub min_bytes: u16,
    /// The client reads references at most two to the power of this back: 8 to 15.
    pub window_bits: NonZero<u8>,
}

impl Deflate {
    /// Whether a message of that many bytes goes out compressed. One that fits the client's window can't refer further
    /// back than that, whatever it was compressed with; a longer one is for clients with a whole window only.
    pub fn covers(self, bytes: usize) -> bool {
        bytes >= self.min_bytes.into()
            && (self.window_bits >= WINDOW_BITS || bytes <= 1 << self.window_bits.get())
    }

    /// The `Sec-WebSocket-Extensions` of the answer.
    pub fn answer(self) -> HeaderValue {
        if self.window_bits == WINDOW_BITS {
            return HeaderValue::from_static(AGREED);
        }
        let answer = format!("{AGREED}; server_max_window_bits={}", self.window_bits);
        HeaderValue::try_from(answer).expect("a header has room for ASCII")
    }
}

/// The header is not what RFC 6455 §9.1 defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The first offer of a handshake that we can agree to, if there is one. The ones before it are declined (RFC 7692
/// §7.1): they are other extensions, or have parameters that are unknown, wrong or double.
///
/// # Errors
/// [`Malformed`]: the handshake must fail then.
pub fn negotiate(headers: &HeaderMap, min_bytes: u16) -> Result<Option<Deflate>, Malformed> {
    let mut agreed = None;
    let mut room = OFFERS_MAX;
    for header in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let mut rest = header.to_str().map_err(|_| Malformed)?;
        loop {
            let (offer, next) = offer(rest)?;
            agreed = agreed.or(offer);
            let Some(next) = next else { break };
            room = room.checked_sub(1).ok_or(Malformed)?;
            rest = next;
        }
    }
    Ok(agreed.map(|window_bits| Deflate { min_bytes, window_bits }))
}

/// Reads one extension of the list: the window it leads to if it can be agreed to, and what is behind its comma.
fn offer(text: &str) -> Result<(Option<NonZero<u8>>, Option<&str>), Malformed> {
    // RFC 9110 §5.6.1.2: a list may have empty elements.
    let text = text.trim_start_matches([' ', '\t']);
    match text.strip_prefix(',') {
        Some(next) => return Ok((None, Some(next))),
        None if text.is_empty() => return Ok((None, None)),
        None => {}
    }
    let (name, mut rest) = token(text)?;
    let mut parameters = Parameters::default();
    let mut acceptable = name.eq_ignore_ascii_case("permessage-deflate");
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return Ok((parameters.window(acceptable), None));
        }
        if let Some(next) = rest.strip_prefix(',') {
            return Ok((parameters.window(acceptable), Some(next)));
        }
        let parameter = rest.strip_prefix(';').ok_or(Malformed)?.trim_start_matches([' ', '\t']);
        let (name, next) = token(parameter)?;
        let next = next.trim_start_matches([' ', '\t']);
        let (value, next) = match next.strip_prefix('=') {
            None => (None, next),
            Some(next) => {
                let (value, next) = value(next.trim_start_matches([' ', '\t']))?;
                (Some(value), next)
            }
        };
        acceptable = acceptable && parameters.take(name, value);
        rest = next;
    }
}

/// The parameters of one offer (RFC 7692 §7.1), each at most once.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<NonZero<u8>>,
    client_max_window_bits: bool,
}

impl Parameters {
    /// Whether the offer can still be agreed to with this parameter.
    fn take(&mut self, name: &str, value: Option<&str>) -> bool {
        let once = |seen: &mut bool| !std::mem::replace(seen, true);
        match (name.to_ascii_lowercase().as_str(), value) {
            ("server_no_context_takeover", None) => once(&mut self.server_no_context_takeover),
            ("client_no_context_takeover", None) => once(&mut self.client_no_context_takeover),
            ("server_max_window_bits", Some(value)) => {
                let bits = window_bits(value);
                bits.is_some() && self.server_max_window_bits.replace(bits.unwrap_or(WINDOW_BITS)).is_none()
            }
            // What we read with has a whole window: any limit will do.
            ("client_max_window_bits", value) => {
                value.is_none_or(|value| window_bits(value).is_some())
                    && once(&mut self.client_max_window_bits)
            }
            _ => false,
        }
    }

    fn window(&self, acceptable: bool) -> Option<NonZero<u8>> {
        acceptable.then(|| self.server_max_window_bits.unwrap_or(WINDOW_BITS))
    }
}

/// RFC 7692 §7.1.2.1: 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<NonZero<u8>> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    value.parse().ok().filter(|bits: &NonZero<u8>| plain && (8..=15).contains(&bits.get()))
}

/// RFC 9110 §5.6.2.
fn token(text: &str) -> Result<(&str, &str), Malformed> {
    let end = text.find(|char: char| !is_token(char)).unwrap_or(text.len());
    if end == 0 { Err(Malformed) } else { Ok(text.split_at(end)) }
}

/// A token, bare or quoted (RFC 6455 §9.1: what is quoted must be a token as well, so nothing in it needs an escape).
fn value(text: &str) -> Result<(&str, &str), Malformed> {
    let Some(quoted) = text.strip_prefix('"') else { return token(text) };
    let (value, rest) = token(quoted)?;
    Ok((value, rest.strip_prefix('"').ok_or(Malformed)?))
}

fn is_token(char: char) -> bool {
    char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(offers: &[&str]) -> Result<Option<u8>, Malformed> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(offer).unwrap());
        }
        negotiate(&headers, 0).map(|deflate| deflate.map(|deflate| deflate.window_bits.get()))
    }

    #[test]
    fn offers_are_agreed_to_or_declined() {
        for (offers, window) in [
            (&[][..], None),
            (&["permessage-deflate"], Some(15)),
            (&["permessage-deflate; client_max_window_bits"], Some(15)),
            (&["Permessage-Deflate;client_max_window_bits=10 ; SERVER_MAX_WINDOW_BITS = 9"], Some(9)),
            (&["permessage-deflate; server_max_window_bits=\"8\""], Some(8)),
            (&["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], Some(15)),
            (&["x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=12"], Some(12)),
            (&["permessage-deflate; server_max_window_bits=7, permessage-deflate"], Some(15)),
            (&["mux; max-channels=4", ", ,permessage-deflate; server_max_window_bits=11"], Some(11)),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; server_max_window_bits=16"], None),
            (&["permessage-deflate; server_max_window_bits=08"], None),
            (&["permessage-deflate; server_max_window_bits=+9"], None),
            (&["permessage-deflate; client_max_window_bits=99999"], None),
            (&["permessage-deflate; server_no_context_takeover=1"], None),
            (&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
            (&["permessage-deflate; unknown"], None),
            (&["permessage-bzip2"], None),
        ] {
            assert_eq!(agreed(offers), Ok(window), "{offers:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_extensions_is_malformed() {
        for offer in [
            "permessage-deflate;",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; server_max_window_bits=\"\"",
            "; server_max_window_bits=10",
            "=",
            "permessage deflate",
        ] {
            assert_eq!(agreed(&[offer]), Err(Malformed), "{offer}");
        }
        assert_eq!(agreed(&[&["mux"; 100].join(",")]), Err(Malformed));
    }

    #[test]
    fn a_small_window_is_answered_and_kept() {
        let small = Deflate { min_bytes: 100, window_bits: NonZero::new(9).unwrap() };
        assert_eq!(small.answer().to_str().unwrap(), format!("{AGREED}; server_max_window_bits=9"));
        assert_eq!([99, 100, 512, 513].map(|bytes| small.covers(bytes)), [false, true, true, false]);
        let whole = Deflate { window_bits: WINDOW_BITS, ..small };
        assert_eq!(whole.answer(), AGREED);
        assert_eq!([99, 100, 1 << 20].map(|bytes| whole.covers(bytes)), [false, true, true]);
    }
}
