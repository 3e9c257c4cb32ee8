//! `subscribe`: what is printed, where it goes on after a loss, and when it gives up, on each transport.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::edge::{Edge, Running, accept, answer, has, joined, leaves, message, refusal, request, run};

fn lines(envelopes: &[String]) -> String {
    envelopes.iter().fold(String::new(), |lines, envelope| lines + envelope + "\n")
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

#[test]
fn sse_goes_on_after_the_last_event_that_was_whole() {
    let edge = Edge::new(|listener| {
        let mut stream = accept(listener);
        let (head, _) = request(&mut stream);
        assert_eq!(head[0], "GET /v1/sse?channels=a%2Cb&history=2&presence=1 HTTP/1.1");
        assert!(has(&head, "accept: text/event-stream"), "{head:?}");
        assert!(!head.iter().any(|line| line.starts_with("last-event-id")), "{head:?}");
        let events = format!("{EVENTS}retry: 20\n\ndata: {}\nid: c0\n\n: comment\n\n", joined("c0"));
        stream.get_mut().write_all(events.as_bytes()).unwrap();
        let cut = format!("data: {}\nid: c1\n\ndata: {}\nid: c2\n", message(1), message(2));
        stream.get_mut().write_all(cut.as_bytes()).unwrap();
        drop(stream);

        let mut stream = accept(listener);
        let (head, _) = request(&mut stream);
        assert_eq!(head[0], "GET /v1/sse?channels=a%2Cb&presence=1 HTTP/1.1");
        assert!(has(&head, "last-event-id: c1"), "{head:?}");
        answer(stream.get_mut(), "503 Service Unavailable", "retry-after: 0\r\nconnection: close\r\n", "");
        drop(stream);

        let mut stream = accept(listener);
        assert!(has(&request(&mut stream).0, "last-event-id: c1"));
        let events = format!("{EVENTS}data: {}\nid: c2\n\n", message(2));
        stream.get_mut().write_all(events.as_bytes()).unwrap();
    });
    let flags = ["--transport", "sse", "--history", "2", "--presence", "--count", "2"];
    let (code, out, errors) = run(&[&["subscribe", "a,b", "--url", &edge.url()], flags.as_slice()].concat());
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(out, lines(&[joined("c0"), message(1), message(2)]));
    assert!(errors.contains("the edge ended the connection; coming back in 20ms"), "{errors}");
    assert!(errors.contains("refused: 503; coming back in 0s"), "{errors}");
    edge.done();
}

#[test]
fn sse_ends_when_the_stream_says_no_for_good() {
    let edge = Edge::new(|listener| {
        let mut stream = accept(listener);
        assert_eq!(request(&mut stream).0[0], "GET /v1/sse?channels=a&cursor=given HTTP/1.1");
        let events = format!("{EVENTS}retry: 20\n\ndata: {}\n\n", refusal(4002, "authentication_failed"));
        stream.get_mut().write_all(events.as_bytes()).unwrap();
        let mut stream = accept(listener);
        request(&mut stream);
        answer(stream.get_mut(), "200 OK", "content-type: text/html\r\n", "hello");
    });
    let subscribe = ["subscribe", "a", "--url", &edge.url(), "--transport", "sse", "--cursor", "given"];
    let (code, out, errors) = run(&subscribe);
    assert_eq!((code, out), (Some(1), lines(&[refusal(4002, "authentication_failed")])));
    assert!(errors.ends_with("tidegate: refused: 4002 authentication_failed: no grant\n"), "{errors}");
    let (code, _, errors) = run(&subscribe);
    assert_eq!(code, Some(1));
    assert_eq!(errors, "tidegate: that is no answer of an edge: Content-Type is \"text/html\"\n");
    edge.done();
}

#[test]
fn polls_ask_on_with_the_cursor_of_the_last_answer() {
    let page = |envelopes: &[String], cursor: &str| {
        format!("{{\"messages\": [{}], \"cursor\": \"{cursor}\"}}", envelopes.join(", "))
    };
    let edge = Edge::new(move |listener| {
        let mut stream = accept(listener);
        let (head, _) = request(&mut stream);
        assert_eq!(head[0], "GET /v1/poll?channels=a&history=1 HTTP/1.1");
        answer(stream.get_mut(), "200 OK", "", &page(&[joined("c0"), message(1)], "c1"));
        let (head, _) = request(&mut stream);
        assert_eq!(head[0], "GET /v1/poll?channels=a&cursor=c1&wait=25 HTTP/1.1", "on the same connection");
        answer(stream.get_mut(), "200 OK", "connection: close\r\n", &page(&[message(2)], "c2"));
        drop(stream);

        let mut stream = accept(listener);
        assert_eq!(request(&mut stream).0[0], "GET /v1/poll?channels=a&cursor=c2&wait=25 HTTP/1.1");
        let problem = r#"{"code":4004,"reason":"rate_limited","detail":"slowly","retry_after_ms":30}"#;
        answer(stream.get_mut(), "429 Too Many Requests", "retry-after: 1\r\n", problem);
        drop(stream);

        let mut stream = accept(listener);
        assert_eq!(request(&mut stream).0[0], "GET /v1/poll?channels=a&cursor=c2&wait=25 HTTP/1.1");
        answer(stream.get_mut(), "200 OK", "", &page(&[message(3), message(4)], "c4"));
    });
    let flags = ["--transport", "poll", "--history", "1", "--count", "3"];
    let (code, out, errors) = run(&[&["subscribe", "a", "--url", &edge.url()], flags.as_slice()].concat());
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(out, lines(&[joined("c0"), message(1), message(2), message(3)]));
    assert!(errors.contains("refused: 429 4004 rate_limited: slowly; coming back in 30ms"), "{errors}");
    edge.done();
}

/// The opening handshake (RFC 6455 §4.2.2).
fn upgrade(listener: &TcpListener) -> BufReader<TcpStream> {
    let mut stream = accept(listener);
    let (head, _) = request(&mut stream);
    assert_eq!(head[0], "GET /v1/ws HTTP/1.1");
    assert!(has(&head, "sec-websocket-version: 13") && has(&head, "upgrade: websocket"), "{head:?}");
    assert!(has(&head, "sec-websocket-protocol: tidegate.v1.json"), "{head:?}");
    let key = head.iter().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    write!(
        stream.get_mut(),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-protocol: tidegate.v1.json\r\nsec-websocket-accept: {}\r\n\r\n",
        STANDARD.encode(digest)
    )
    .unwrap();
    stream
}

/// A client's frame: its first byte, and its payload unmasked.
fn frame(stream: &mut BufReader<TcpStream>) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[1] & 0x80, 0x80, "a client masks (RFC 6455 §5.1)");
    let mut length = [0; 2];
    length[1] = head[1] & 0x7f;
    if length[1] == 126 {
        stream.read_exact(&mut length).unwrap();
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).unwrap();
    let mut payload = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut payload).unwrap();
    let unmasked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    (head[0], unmasked)
}

fn join(stream: &mut BufReader<TcpStream>) -> Value {
    let (head, payload) = frame(stream);
    assert_eq!(head, 0x81);
    let envelope: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(envelope["type"], "join_room");
    envelope["payload"].clone()
}

fn send(stream: &mut BufReader<TcpStream>, first: u8, payload: &[u8]) {
    let mut bytes = vec![first, 126];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    if let (true, Ok(short)) = (payload.len() < 126, u8::try_from(payload.len())) {
        bytes = vec![first, short];
    }
    stream.get_mut().write_all(&[bytes.as_slice(), payload].concat()).unwrap();
}

fn close(stream: &mut BufReader<TcpStream>, code: u16, reason: &str) {
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    send(stream, 0x88, &payload);
    assert_eq!(frame(stream), (0x88, payload), "a close is echoed (RFC 6455 §5.5.1)");
}

#[test]
fn a_websocket_recovers_each_channel_from_its_last_message() {
    let edge = Edge::new(|listener| {
        let mut stream = upgrade(listener);
        assert_eq!(join(&mut stream), json!({"channel": "a", "history": 1, "presence": true}));
        assert_eq!(join(&mut stream), json!({"channel": "b", "history": 1, "presence": true}));
        send(&mut stream, 0x81, joined("c0").as_bytes());
        send(&mut stream, 0x89, b"are you there");
        assert_eq!(frame(&mut stream), (0x8a, b"are you there".to_vec()));
        let (begin, end) = (message(5).into_bytes(), message(5).into_bytes().split_off(9));
        send(&mut stream, 0x01, &begin[..9]);
        send(&mut stream, 0x80, &end);
        close(&mut stream, 1012, "restart;retry=20");

        let mut stream = upgrade(listener);
        let recover = json!({"channel": "a", "recover": {"epoch": "e", "seq": 5}, "presence": true});
        assert_eq!(join(&mut stream), recover);
        assert_eq!(join(&mut stream), json!({"channel": "b", "history": 1, "presence": true}));
        send(&mut stream, 0x81, joined("c5").as_bytes());
        // Without a goodbye.
        drop(stream);

        let mut stream = upgrade(listener);
        assert_eq!(join(&mut stream), json!({"channel": "a", "cursor": "c5", "presence": true}));
        join(&mut stream);
        send(&mut stream, 0x81, message(6).as_bytes());
        assert_eq!(frame(&mut stream), (0x88, 1000_u16.to_be_bytes().to_vec()), "it says goodbye");
        leaves(&mut stream);
    });
    let flags = ["--history", "1", "--presence", "--count", "2"];
    let (code, out, errors) = run(&[&["subscribe", "a,b", "--url", &edge.url()], flags.as_slice()].concat());
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(out, lines(&[joined("c0"), message(5), joined("c5"), message(6)]));
    assert!(errors.contains("refused: 1012 restart; coming back in 20ms"), "{errors}");
    edge.done();
}

#[test]
fn a_websocket_ends_when_the_edge_says_no_for_good() {
    let edge = Edge::new(|listener| {
        let mut stream = upgrade(listener);
        join(&mut stream);
        send(&mut stream, 0x81, refusal(4000, "forbidden").as_bytes());
        leaves(&mut stream);

        let mut stream = upgrade(listener);
        join(&mut stream);
        close(&mut stream, 4002, "authentication_failed");

        let mut stream = accept(listener);
        request(&mut stream);
        answer(stream.get_mut(), "404 Not Found", "", "nothing here");

        let mut stream = accept(listener);
        request(&mut stream);
        let other = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: bm90IHlvdXIga2V5\r\n\r\n";
        stream.get_mut().write_all(other.as_bytes()).unwrap();
    });
    for said in [
        "refused: 4000 forbidden: no grant",
        "refused: 4002 authentication_failed",
        "refused: 404: nothing here",
        "that is no answer of an edge: it upgrades to something else than WebSocket",
    ] {
        let (code, _, errors) = run(&["subscribe", "a", "--url", &edge.url()]);
        assert_eq!(code, Some(1));
        assert!(errors.ends_with(&format!("tidegate: {said}\n")), "{errors}");
    }
    edge.done();
}

#[test]
fn what_was_never_connected_is_not_waited_for() {
    let nobody = Edge::new(|_| {});
    let url = nobody.url();
    nobody.done();
    for transport in ["ws", "sse", "poll"] {
        let (code, out, errors) = run(&["subscribe", "a", "--url", &url, "--transport", transport]);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert_eq!(errors, format!("tidegate: cannot connect to {url}: Connection refused (os error 111)\n"));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_a_good_end() {
    let edge = Edge::new(|listener| {
        let mut stream = accept(listener);
        request(&mut stream);
        stream.get_mut().write_all(format!("{EVENTS}data: {}\n\n", joined("c0")).as_bytes()).unwrap();
        leaves(&mut stream);
    });
    let mut running = Running::start(&["subscribe", "a", "--url", &edge.url(), "--transport", "sse"], &[]);
    let mut first = String::new();
    BufReader::new(running.child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, joined("c0") + "\n");
    let interrupted = Instant::now();
    let signal = Command::new("kill").args(["-INT", &running.child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    assert_eq!(running.end().0, Some(0));
    assert!(interrupted.elapsed() < Duration::from_secs(5));
    edge.done();
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_is_a_good_end() {
    let edge = Edge::new(|listener| {
        let mut stream = accept(listener);
        request(&mut stream);
        stream.get_mut().write_all(EVENTS.as_bytes()).unwrap();
        // Until the client leaves, as it must before it can be sent so many.
        for seq in 1..100_000 {
            if stream.get_mut().write_all(format!("data: {}\n\n", message(seq)).as_bytes()).is_err() {
                return;
            }
        }
        panic!("nobody left");
    });
    let mut running = Running::start(&["subscribe", "a", "--url", &edge.url(), "--transport", "sse"], &[]);
    let mut first = String::new();
    BufReader::new(running.child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, message(1) + "\n");
    assert_eq!(running.exit_code(), Some(0));
    edge.done();
}
