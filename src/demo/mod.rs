//! The demo chat: four static files that show one channel over `WebSocket`, `EventSource` and `fetch`.
//!
//! The router serves them in development mode only and adds [`CONTENT_SECURITY_POLICY`] to each. They are compiled
//! in, so the page needs no file beside the binary; this module never reads a file and knows nothing of requests.

/// The policy that goes with every [`Asset`]: nothing inline, nothing from elsewhere, no framing, no way to make
/// markup from a string. `wss:` stands beside `'self'` for browsers in which `'self'` leaves the WebSocket scheme
/// out (CSP 3 §6.7.2.8 takes it in); `data:` is the page's icon.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self' wss:; img-src 'self' data:; \
     form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'";

/// One file of the demo, as it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The whole body, UTF-8.
    pub body: &'static str,
}

/// The page, for `/` and `/demo`.
pub const PAGE: Asset = Asset { content_type: "text/html; charset=utf-8", body: include_str!("page.html") };

/// How it looks, for `/demo/page.css`.
pub const STYLE: Asset = Asset { content_type: "text/css; charset=utf-8", body: include_str!("page.css") };

/// What the user sees and does, for `/demo/page.js`.
pub const SCRIPT: Asset =
    Asset { content_type: "text/javascript; charset=utf-8", body: include_str!("page.js") };

/// The three transports and the position that outlives them, for `/demo/wire.js`.
pub const WIRE: Asset =
    Asset { content_type: "text/javascript; charset=utf-8", body: include_str!("wire.js") };

/// The file that belongs to the path of a `GET` or `HEAD`, without its query; `None` where the demo has none.
pub fn asset(path: &str) -> Option<Asset> {
    match path {
        "/" | "/demo" => Some(PAGE),
        "/demo/page.css" => Some(STYLE),
        "/demo/page.js" => Some(SCRIPT),
        "/demo/wire.js" => Some(WIRE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, SCRIPT, STYLE, WIRE, asset};

    /// The quoted words in `text` that begin with `/demo/`: what one file asks another by.
    fn references(text: &str) -> impl Iterator<Item = &str> {
        text.split('"').filter(|word| word.starts_with("/demo/"))
    }

    #[test]
    fn every_file_that_is_referred_to_is_served() {
        let from_page: Vec<_> = references(PAGE.body).collect();
        assert_eq!(from_page, ["/demo/page.css", "/demo/page.js"]);
        let from_script: Vec<_> = references(SCRIPT.body).collect();
        assert_eq!(from_script, ["/demo/wire.js"]);
        for path in from_page.into_iter().chain(from_script).chain(["/", "/demo"]) {
            assert!(asset(path).is_some(), "{path}");
        }
        assert!(asset("/demo/").is_none());
        assert!(asset("/demo/mod.rs").is_none());
    }

    #[test]
    fn the_page_has_nothing_inline_that_the_policy_would_refuse() {
        for refused in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!PAGE.body.contains(refused), "{refused}");
        }
        assert_eq!(PAGE.body.matches("<script").count(), 1);
        assert!(PAGE.body.contains("src=\"/demo/page.js\"></script>"));
    }

    #[test]
    fn text_from_the_network_cannot_become_markup() {
        for file in [SCRIPT, WIRE] {
            for sink in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
            {
                assert!(!file.body.contains(sink), "{sink}");
            }
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for file in [STYLE, SCRIPT, WIRE] {
            assert!(!file.body.contains("://"));
            assert!(!file.body.contains("@import"));
        }
    }
}
