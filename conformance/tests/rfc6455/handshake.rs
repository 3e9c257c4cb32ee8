//! RFC 6455 §4: what makes a request an opening handshake, what the server answers, and what it says to those that are
//! none.

use bytes::Bytes;

use super::{Opening, PATHS, PONG, Raw, TEXT, edge, frame};

#[tokio::test]
async fn section_4_2_2_the_answer_is_that_of_the_rfc() {
    let edge = edge().await;
    for path in PATHS {
        let answer = Opening::of(&edge, path).answer(&edge).await;
        assert_eq!(answer.status, 101);
        assert!(answer.header("upgrade").unwrap().eq_ignore_ascii_case("websocket"));
        assert!(answer.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        // §1.3 has this key with this answer.
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        // Nobody offered any (§4.2.2, §9.1), and the version is for failures only (§4.4).
        for header in ["sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-version"] {
            assert_eq!(answer.header(header), None, "{header}");
        }
        // RFC 9110 §8.6, RFC 9112 §6.1: a 101 has no body, and says nothing of one.
        for header in ["content-length", "transfer-encoding"] {
            assert_eq!(answer.header(header), None, "{header}");
        }
    }
}

/// Names and tokens are compared without case, and may stand among others.
#[tokio::test]
async fn section_4_2_1_tokens_are_found_however_they_are_written() {
    let edge = edge().await;
    let good = Opening::of(&edge, "/echo");
    for opening in [
        good.clone().but("Upgrade", "WebSocket"),
        good.clone().but("Upgrade", "h2c, WEBSOCKET"),
        good.clone().but("Connection", "keep-alive, UPGRADE"),
        good.clone().but("Connection", "keep-alive").with("Connection", "upgrade"),
        good.clone().without("Upgrade").with("UPGRADE", "websocket"),
        good.clone().without("Sec-WebSocket-Key").with("SEC-websocket-KEY", "AQIDBAUGBwgJCgsMDQ4PEA=="),
    ] {
        let answer = opening.answer(&edge).await;
        assert_eq!(answer.status, 101, "{:?}", opening.headers);
    }
}

#[tokio::test]
async fn section_4_2_1_only_a_get_can_become_a_websocket() {
    let edge = edge().await;
    for path in PATHS {
        for method in ["POST", "PUT", "DELETE", "HEAD"] {
            let opening = Opening::of(&edge, path)
                .line(&format!("{method} {path} HTTP/1.1"))
                .with("Content-Length", "0");
            let answer = opening.answer(&edge).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            // RFC 9110 §15.5.6.
            assert!(
                answer.header("allow").unwrap().split(',').any(|allowed| allowed.trim() == "GET"),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn section_4_2_1_http_1_0_cannot_be_upgraded() {
    let edge = edge().await;
    for path in PATHS {
        let answer = Opening::of(&edge, path).line(&format!("GET {path} HTTP/1.0")).answer(&edge).await;
        assert!(matches!(answer.status, 400 | 426 | 505), "{path}: {answer:?}");
    }
}

/// RFC 9110 §15.5.22: who is told to upgrade is told to what.
#[tokio::test]
async fn section_4_2_1_without_upgrade_or_connection_it_is_an_ordinary_request() {
    let edge = edge().await;
    for path in PATHS {
        let good = Opening::of(&edge, path);
        for opening in [
            good.clone().without("Upgrade"),
            good.clone().without("Connection"),
            good.clone().without("Upgrade").without("Connection"),
            good.clone().but("Upgrade", "h2c"),
            good.clone().but("Upgrade", "websocket2"),
            good.clone().but("Connection", "keep-alive"),
        ] {
            let answer = opening.answer(&edge).await;
            assert_eq!(answer.status, 426, "{path} {:?}", opening.headers);
            assert!(answer.header("upgrade").unwrap().eq_ignore_ascii_case("websocket"));
            assert!(
                answer.header("connection").unwrap().to_ascii_lowercase().contains("upgrade"),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn section_4_4_another_version_is_told_ours() {
    let edge = edge().await;
    for path in PATHS {
        let good = Opening::of(&edge, path);
        for version in ["12", "14", "8", "0", "", "013", "13.0", "256"] {
            let answer = good.clone().but("Sec-WebSocket-Version", version).answer(&edge).await;
            assert_eq!(answer.status, 426, "{path} {version:?}");
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{path} {version:?}");
        }
        let answer = good.without("Sec-WebSocket-Version").answer(&edge).await;
        assert!(matches!(answer.status, 400 | 426), "{path}: {answer:?}");
    }
}

/// The client of §4.4 tries again, and may do so on the same connection, which is still HTTP.
#[tokio::test]
async fn section_4_4_a_refused_client_may_try_again() {
    let edge = edge().await;
    let good = Opening::of(&edge, "/echo");
    let mut raw = Raw::connect(&edge).await;
    raw.send(&good.clone().but("Sec-WebSocket-Version", "8").bytes()).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 426);
    let length: usize = answer.header("content-length").unwrap().parse().unwrap();
    while raw.input.len() < length {
        assert!(raw.fill().await);
    }
    let _body = raw.input.split_to(length);
    raw.send(&good.bytes()).await;
    assert_eq!(raw.answer().await.status, 101);
    raw.lives().await;
}

#[tokio::test]
async fn section_4_2_1_a_key_is_16_bytes_in_base64() {
    let edge = edge().await;
    for path in PATHS {
        let good = Opening::of(&edge, path);
        for key in [
            "",
            "no base64 at all",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZXg=",
            "dGhlIHNhbXBsZSBub25jZXh4",
            "dGhlIHNhbXBsZSBub25jZQ===",
        ] {
            let answer = good.clone().but("Sec-WebSocket-Key", key).answer(&edge).await;
            assert_eq!(answer.status, 400, "{path} {key:?}");
        }
        assert_eq!(good.clone().without("Sec-WebSocket-Key").answer(&edge).await.status, 400, "{path}");
        // §11.3.1: it must not appear more than once.
        let twice = good.clone().with("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEA==");
        assert_eq!(twice.answer(&edge).await.status, 400, "{path}");
    }
}

/// §4.1 prints it, with bits behind the sixteenth byte that are not zero. Clients send it, so it is taken.
#[tokio::test]
async fn section_4_1_the_key_that_the_rfc_shows_is_one() {
    let edge = edge().await;
    let answer =
        Opening::of(&edge, "/echo").but("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEC==").answer(&edge).await;
    assert_eq!(answer.status, 101);
    assert!(answer.header("sec-websocket-accept").is_some());
}

#[tokio::test]
async fn section_4_2_2_a_subprotocol_is_chosen_from_those_that_were_offered() {
    let edge = edge().await;
    let ours = Some("tidegate.v1.json");
    for path in PATHS {
        let good = Opening::of(&edge, path);
        for (offers, chosen) in [
            (&["tidegate.v1.json"][..], ours),
            (&["chat, tidegate.v1.json"], ours),
            (&["tidegate.v1.json,chat"], ours),
            (&["chat", "tidegate.v1.json"], ours),
            // A token beside it is for the server and goes back to nobody.
            (&["tidegate.bearer.abc, tidegate.v1.json"], ours),
            (&["chat"], None),
            // §11.3.4: subprotocols are compared as they are written.
            (&["Tidegate.V1.JSON"], None),
            (&["tidegate.v1.json2, xtidegate.v1.json"], None),
        ] {
            let opening = offers
                .iter()
                .fold(good.clone(), |opening, offer| opening.with("Sec-WebSocket-Protocol", offer));
            let answer = opening.answer(&edge).await;
            assert_eq!(
                (answer.status, answer.header("sec-websocket-protocol")),
                (101, chosen),
                "{path} {offers:?}"
            );
        }
    }
}

#[tokio::test]
async fn section_9_1_an_extension_that_is_not_known_is_not_used() {
    let edge = edge().await;
    for path in PATHS {
        for offer in ["x-webkit-deflate-frame", "bbf-usp-protocol; eid=\"1\"", "permessage-nothing; a=b, x-y"]
        {
            let opening = Opening::of(&edge, path).with("Sec-WebSocket-Extensions", offer);
            let answer = opening.answer(&edge).await;
            assert_eq!(
                (answer.status, answer.header("sec-websocket-extensions")),
                (101, None),
                "{path} {offer}"
            );
        }
    }
}

/// A client has to wait for the answer (§4.1). One that does not has its frames read all the same: the bytes behind
/// the head belong to the WebSocket, wherever a segment ends.
#[tokio::test]
async fn section_4_1_bytes_behind_the_head_are_frames() {
    let edge = edge().await;
    let text = frame(TEXT, b"early");
    for cut in 0..=text.len() {
        let mut raw = Raw::connect(&edge).await;
        raw.send(&[&Opening::of(&edge, "/echo").bytes(), &text[..cut]].concat()).await;
        assert_eq!(raw.answer().await.status, 101);
        raw.send(&text[cut..]).await;
        assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(b"early")), "cut at {cut}");
    }
}

#[tokio::test]
async fn section_4_2_2_what_does_not_exist_cannot_be_upgraded() {
    let edge = edge().await;
    for path in ["/v1/w", "/v1/ws/", "/echo/x", "/v2/ws"] {
        assert_eq!(Opening::of(&edge, path).answer(&edge).await.status, 404, "{path}");
    }
    let mut raw = Raw::open(&edge, "/echo?agent=x").await;
    raw.lives().await;
    raw.send(&frame(PONG, b"")).await;
    raw.lives().await;
}
