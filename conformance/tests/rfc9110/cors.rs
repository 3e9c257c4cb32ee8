//! CORS (WHATWG Fetch §3.3), which is said in headers of RFC 9110: what a page of another origin may read and send.

use conformance::edge::{Edge, Settings};
use conformance::wire::{Connection, Head, Target};
use tokio::io::AsyncWriteExt as _;

const PAGE: &str = "https://app.example.com";

fn settings() -> Settings {
    Settings::profile().set("origins.allow", serde_json::json!([PAGE]))
}

async fn ask(target: &Target, method: &str, path: &str, lines: &str) -> Head {
    let mut connection = Connection::open(target).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: edge.example\r\n{lines}\r\n");
    connection.stream().write_all(request.as_bytes()).await.unwrap();
    connection.head().await.unwrap().0
}

fn listed(head: &Head, name: &str) -> Vec<String> {
    let list = head.header(name).unwrap_or_default();
    list.split(',').map(|item| item.trim().to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn preflights_say_what_may_be_sent() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for (path, method, headers) in [
        ("/v1/sse?channels=open:a", "GET", "authorization,last-event-id"),
        ("/v1/poll?channels=open:a", "GET", "authorization"),
        ("/v1/send", "POST", "authorization,content-type,idempotency-key"),
        ("/v1/channels/open:a/messages", "POST", "authorization,content-type,idempotency-key"),
        ("/v1/channels/open:a/presence", "GET", "authorization"),
        ("/v1/tickets", "POST", "authorization"),
    ] {
        let lines = format!(
            "origin: {PAGE}\r\naccess-control-request-method: {method}\r\naccess-control-request-headers: {headers}\r\n"
        );
        let head = ask(&edge.target, "OPTIONS", path, &lines).await;
        assert_eq!(head.status, 204, "{path}");
        assert_eq!(head.header("access-control-allow-origin"), Some(PAGE), "{path}");
        assert_eq!(head.header("access-control-allow-credentials"), Some("true"), "{path}");
        assert!(
            listed(&head, "access-control-allow-methods").contains(&method.to_ascii_lowercase()),
            "{path}"
        );
        let allowed = listed(&head, "access-control-allow-headers");
        assert!(headers.split(',').all(|name| allowed.iter().any(|it| it == name)), "{path}: {allowed:?}");
        // RFC 9110 §12.5.5: or a cache gives one page another's answer.
        assert!(listed(&head, "vary").contains(&"origin".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn pages_elsewhere_are_told_nothing() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for origin in [
        "https://elsewhere.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "null",
    ] {
        for method in ["OPTIONS", "GET", "HEAD"] {
            let lines = format!("origin: {origin}\r\naccess-control-request-method: GET\r\n");
            let head = ask(&edge.target, method, "/v1/poll?channels=open:a", &lines).await;
            assert_eq!(head.status, 403, "{method} {origin}");
            let leaks = head.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
            assert!(!leaks, "{method} {origin}: {:?}", head.headers);
        }
    }
}

#[tokio::test]
async fn answers_and_refusals_can_be_read_by_the_page() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for (method, path) in [
        ("GET", "/v1/poll?channels=open:a"),
        ("GET", "/v1/poll"),
        ("HEAD", "/v1/sse?channels=open:a"),
        ("PUT", "/v1/send"),
        ("GET", "/nothing"),
        ("OPTIONS", "*"),
    ] {
        let head = ask(&edge.target, method, path, &format!("origin: {PAGE}\r\n")).await;
        assert_eq!(head.header("access-control-allow-origin"), Some(PAGE), "{method} {path}");
        assert!(listed(&head, "vary").contains(&"origin".to_owned()), "{method} {path}");
    }
}

/// RFC 9112 §3.2.2: with a target in absolute form it is the target's host that is asked for, so its pages are the
/// edge's own and those of the `Host` are not.
#[tokio::test]
async fn the_own_origin_is_the_targets() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for (origin, status) in [("https://edge.test", 200), ("https://edge.example", 403)] {
        let path = "https://edge.test/v1/poll?channels=open:a";
        let head = ask(&edge.target, "GET", path, &format!("origin: {origin}\r\n")).await;
        assert_eq!(head.status, status, "{origin}");
    }
}
