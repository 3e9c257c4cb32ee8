//! `publish` and `healthcheck`: one question, one answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::edge::{Edge, Running, accept, answer, has, refusal, request, run};

#[test]
fn publish_sends_an_envelope_and_prints_its_acknowledgement() {
    let edge = Edge::new(|listener| {
        let mut stream = accept(listener);
        let (head, body) = request(&mut stream);
        assert_eq!(head[0], "POST /edge/v1/send HTTP/1.1");
        assert!(has(&head, "authorization: Bearer abc"), "{head:?}");
        assert!(has(&head, &format!("host: {}", listener.local_addr().unwrap())), "{head:?}");
        let envelope: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(envelope["type"], "message");
        assert_eq!(envelope["payload"], json!({"channel": "chat:lobby", "data": {"a": [1, 2.50]}}));
        assert!(body.contains(r#"{"a":  [1, 2.50]}"#), "data goes as it was written: {body}");
        assert_eq!(envelope["metadata"]["message_id"], "id-1");
        assert!(envelope["metadata"]["correlation_id"].is_string());
        let ack = r#"[{"type":"message_ack","payload":{"channel":"chat:lobby","epoch":"e","seq":9,"duplicate":true}}]"#;
        answer(stream.get_mut(), "200 OK", "", ack);
    });
    let arguments = ["publish", "chat:lobby", "-", "--message-id", "id-1"];
    let url = edge.url() + "/edge/";
    let mut running = Running::start(&arguments, &[("TIDEGATE_URL", &url), ("TIDEGATE_TOKEN", "abc")]);
    running.child.stdin.take().unwrap().write_all(b"{\"a\":  [1, 2.50]}\n").unwrap();
    let (code, out, errors) = running.end();
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let payload: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(payload, json!({"channel": "chat:lobby", "epoch": "e", "seq": 9, "duplicate": true}));
    edge.done();
}

#[test]
fn publish_says_why_it_was_refused() {
    let edge = Edge::new(|listener| {
        let mut stream = accept(listener);
        request(&mut stream);
        let problem =
            r#"{"title":"Forbidden","status":403,"code":4000,"reason":"forbidden","detail":"no grant"}"#;
        answer(stream.get_mut(), "403 Forbidden", "content-type: application/problem+json\r\n", problem);
        let mut stream = accept(listener);
        request(&mut stream);
        answer(stream.get_mut(), "200 OK", "", &format!("[{}]", refusal(4000, "forbidden")));
        let mut stream = accept(listener);
        request(&mut stream);
        answer(stream.get_mut(), "200 OK", "", "<html>");
        drop(accept(listener));
    });
    let publish = || run(&["publish", "a", "hello", "--url", &edge.url()]);
    let failed = |text: &str| (Some(1), String::new(), format!("tidegate: {text}\n"));
    assert_eq!(publish(), failed("refused: 403 4000 forbidden: no grant"));
    assert_eq!(publish(), failed("refused: 4000 forbidden: no grant"));
    assert_eq!(publish(), failed("that is no answer of an edge: <html>"));
    let (code, _, errors) = publish();
    assert!(code == Some(1) && errors.starts_with("tidegate: the connection broke: "), "{code:?} {errors}");
    let url = edge.url();
    edge.done();
    let (code, _, errors) = run(&["publish", "a", "hello", "--url", &url]);
    assert_eq!(code, Some(1));
    assert_eq!(errors, format!("tidegate: cannot connect to {url}: Connection refused (os error 111)\n"));
}

/// Three connections over TLS that go well, and one whose client does not trust it.
fn tls_edge(directory: &Path) -> Edge {
    tidegate::server::dev_cert::ensure_certificate(directory).unwrap();
    let read = |name| std::fs::read(directory.join(name)).unwrap();
    let chain = rustls_pemfile::certs(&mut read("dev.crt").as_slice()).collect::<Result<_, _>>().unwrap();
    let key = rustls_pemfile::private_key(&mut read("dev.key").as_slice()).unwrap().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    Edge::new(move |listener| {
        for trusted in [true, true, true, false] {
            let tcp = accept(listener).into_inner();
            let tls = ServerConnection::new(config.clone()).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(tls, tcp));
            if !trusted {
                assert!(stream.read_line(&mut String::new()).is_err(), "it was not to be trusted");
                continue;
            }
            request(&mut stream);
            answer(stream.get_mut(), "200 OK", "", r#"[{"type":"message_ack","payload":{}}]"#);
            stream.get_mut().conn.send_close_notify();
            stream.get_mut().flush().unwrap();
        }
    })
}

#[test]
fn the_development_certificate_is_trusted_on_this_machine() {
    let here = tempfile::tempdir().unwrap();
    let certificate = here.path().join("certs/dev.crt");
    let edge = tls_edge(&here.path().join("certs"));
    // What a system without our certificate trusts.
    let other = tempfile::tempdir().unwrap();
    tidegate::server::dev_cert::ensure_certificate(other.path()).unwrap();
    let system = other.path().join("dev.crt");
    let env = [("SSL_CERT_FILE", system.to_str().unwrap())];

    let publish = |directory, host: &str, more: &[&str]| {
        let url = format!("https://{host}:{}", edge.addr.port());
        let arguments = [&["publish", "a", "hello", "--url", &url], more].concat();
        Running::start_in(directory, &arguments, &env).end()
    };
    let elsewhere = || tempfile::tempdir().unwrap();
    let fine = (Some(0), "{}\n".to_owned(), String::new());
    assert_eq!(publish(elsewhere(), "localhost", &["--ca", certificate.to_str().unwrap()]), fine);
    assert_eq!(publish(elsewhere(), "localhost", &["--insecure"]), fine);
    assert_eq!(publish(here, "127.0.0.1", &[]), fine);
    let (code, _, errors) = publish(elsewhere(), "localhost", &[]);
    assert_eq!(code, Some(1));
    assert!(
        errors.starts_with(&format!("tidegate: no TLS with https://localhost:{}: ", edge.addr.port())),
        "{errors}"
    );
    assert!(errors.contains("UnknownIssuer (name the edge's certificate with --ca FILE, or"), "{errors}");
    edge.done();
}

#[test]
fn a_health_check_is_one_line_and_an_exit_code() {
    let edge = Edge::new(|listener| {
        for (status, body) in [("200 OK", "ready\n"), ("503 Service Unavailable", "draining\nsince 3 s\n")] {
            let mut stream = accept(listener);
            assert_eq!(request(&mut stream).0[0], "GET /readyz HTTP/1.1");
            answer(stream.get_mut(), status, "", body);
        }
    });
    let admin = edge.addr.to_string();
    assert_eq!(run(&["healthcheck", "--admin", &admin]), (Some(0), "ready\n".to_owned(), String::new()));
    let configured = Running::start(&["healthcheck"], &[("TIDEGATE_LISTEN__ADMIN", &admin)]).end();
    assert_eq!(configured, (Some(1), String::new(), "tidegate: not ready: 503 draining\n".to_owned()));
    edge.done();
    let (code, _, errors) = run(&["healthcheck", "--admin", &admin]);
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("tidegate: cannot connect to http://127.0.0.1:"), "{errors}");
}
