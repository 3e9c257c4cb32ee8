//! The admin listener over real sockets, compared byte for byte where bytes are fixed.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::*;
use crate::bus::EmbeddedBus;
use crate::metrics::Transport;

/// A running listener; dropping it stops it.
struct Server {
    addr: SocketAddr,
    state: Arc<AdminState>,
    shutdown: CancellationToken,
    serving: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = crate::config::Config::default();
        let hub = Hub::new(config.channels, config.limits, Arc::new(EmbeddedBus::new()));
        let state = Arc::new(AdminState {
            metrics: Arc::new(Metrics::new()),
            hub: Arc::new(hub),
            readiness: Arc::new(Readiness::new()),
            revocations: Arc::default(),
            revoked: None,
        });
        let shutdown = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&state), shutdown.clone()));
        Self { addr, state, shutdown, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// What comes back until the server closes, without the `date` header.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn request(&self, method: &str, path: &str) -> String {
        self.send(
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        let stopped = timeout(Duration::from_secs(10), self.serving.join_next()).await;
        stopped.expect("serve ends").unwrap().unwrap();
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well: what was not read of the request may cause one.
    let _ = timeout(Duration::from_mins(5), stream.read_to_end(&mut bytes)).await.expect("the server closes");
    let text = String::from_utf8(bytes).unwrap();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn probes_follow_the_phases() {
    let server = Server::start().await;
    let alive = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\n\
                 connection: close\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(server.request("GET", "/livez").await, alive);
    assert_eq!(server.request("HEAD", "/livez").await, alive.strip_suffix("ok").unwrap());

    let starting = server.request("GET", "/readyz").await;
    assert!(starting.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{starting}");
    assert!(starting.ends_with("\r\n\r\nstarting"), "{starting}");

    server.state.readiness.set_ready();
    let ready = server.request("GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n") && ready.ends_with("\r\n\r\nready"), "{ready}");

    server.state.readiness.set_draining();
    let draining = server.request("GET", "/readyz").await;
    assert!(draining.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{draining}");
    assert!(draining.ends_with("\r\n\r\ndraining"), "{draining}");
    assert_eq!(server.request("GET", "/livez").await, alive, "a node that drains is alive");
    server.stop().await;
}

#[tokio::test]
async fn metrics_tell_of_the_node() {
    let server = Server::start().await;
    let guard = server.state.metrics.connection(Transport::Sse);
    server.state.hub.open(&"chat:lobby".parse().unwrap()).await.unwrap();
    server.state.readiness.set_draining();
    let page = server.request("GET", "/metrics").await;
    assert!(
        page.starts_with(
            "HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        ),
        "{page}"
    );
    for line in
        ["tidegate_connections_active{transport=\"sse\"} 1", "tidegate_channels 1", "tidegate_draining 1"]
    {
        assert!(page.lines().any(|found| found == line), "no line {line} in:\n{page}");
    }
    assert!(page.ends_with("\n# EOF\n"));
    assert!(!page.contains("lobby"), "no channel is named");
    drop(guard);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let server = Server::start().await;
    assert_eq!(
        server.request("GET", "/v1/ws?x=/metrics").await,
        "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
         connection: close\r\ncontent-length: 131\r\n\r\n\
         {\"title\":\"Not found\",\"status\":404,\"code\":4000,\"reason\":\"not_found\",\
         \"detail\":\"there are /metrics, /livez, /readyz and /revocations\"}"
    );
    let refused = server.request("DELETE", "/metrics").await;
    assert!(refused.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{refused}");
    assert!(refused.contains("\r\nallow: GET, HEAD\r\n"), "{refused}");
    assert!(refused.contains("\"reason\":\"method_not_allowed\""), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn garbage_is_survived() {
    let server = Server::start().await;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"\0\0\0\0\r\n\r\n", b"hello\r\n\r\n"]
    {
        let answer = server.send(garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{garbage:?}: {answer}");
    }
    let mut endless = b"GET /livez HTTP/1.1\r\nx: ".to_vec();
    endless.resize(HEAD_BYTES + 1, b'x');
    let answer = server.send(&endless).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(server.request("GET", "/livez").await.ends_with("ok"));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_cut() {
    let server = Server::start().await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let began = Instant::now();
    let answer = read_to_end(&mut slow).await;
    assert!(!answer.contains("200"), "{answer}");
    let took = began.elapsed();
    assert!(took >= HEAD_TIMEOUT.mul_f32(0.9) && took <= HEAD_TIMEOUT + GRACE, "cut after {took:?}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_give_their_places_back() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(server.connect().await);
    }
    // Has no place until the idle ones are cut.
    let began = Instant::now();
    assert!(server.request("GET", "/livez").await.ends_with("ok"));
    assert!(began.elapsed() >= HEAD_TIMEOUT.mul_f32(0.9), "served after {:?}", began.elapsed());
    for mut stream in idle {
        assert_eq!(read_to_end(&mut stream).await, "");
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_cut() {
    let server = Server::start().await;
    let mut deaf = server.connect().await;
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(50);
    // Asks on until neither side's buffers take more.
    let began = Instant::now();
    let ended = loop {
        let written = timeout(Duration::from_mins(5), deaf.write_all(&request)).await;
        if let Err(error) = written.expect("the server cuts it") {
            break error;
        }
    };
    let took = began.elapsed();
    assert!(took >= LIFETIME && took <= LIFETIME + GRACE + Duration::from_secs(1), "{ended} after {took:?}");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_ends_idle_connections_at_once() {
    let server = Server::start().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 16];
    idle.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    let addr = server.addr;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < GRACE, "took {:?}", began.elapsed());
    assert!(read_to_end(&mut idle).await.ends_with("ok"));
    assert!(TcpStream::connect(addr).await.is_err(), "the port is closed");
}
