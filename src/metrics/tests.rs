//! The page's lines, exactly as a scraper reads them.

use super::*;

fn lines(metrics: &Metrics, starts: &str) -> Vec<String> {
    metrics
        .render(&Gauges::default())
        .lines()
        .filter(|line| line.starts_with(starts))
        .map(str::to_owned)
        .collect()
}

#[test]
fn indices_are_the_numbers_of_the_variants() {
    assert!(Transport::ALL.iter().enumerate().all(|(i, &transport)| transport as usize == i));
    assert!(Stage::ALL.iter().enumerate().all(|(i, &stage)| stage as usize == i));
    assert!(Kind::ALL.iter().enumerate().all(|(i, &kind)| kind as usize == i));
    assert!(GAP_REASONS.iter().enumerate().all(|(i, &reason)| reason as usize == i));
}

#[test]
fn every_series_is_there_from_the_start() {
    let page = Metrics::new().render(&Gauges::default());
    for line in [
        "# TYPE websocket_connections_active gauge",
        "websocket_connections_active 0",
        "# TYPE websocket_messages_sent counter",
        "websocket_messages_sent_total 0",
        "websocket_messages_received_total 0",
        "tidegate_connections_active{transport=\"websocket\"} 0",
        "tidegate_connections_opened_total{transport=\"http\"} 0",
        "tidegate_messages_sent_total{transport=\"sse\"} 0",
        "tidegate_messages_received_total{transport=\"poll\"} 0",
        "tidegate_malformed_total{transport=\"websocket\"} 0",
        "tidegate_rate_limited_total{transport=\"http\"} 0",
        "tidegate_tcp_connections_active 0",
        "tidegate_tcp_connections_total 0",
        "tidegate_handshakes_total{stage=\"tls\",outcome=\"failed\"} 0",
        "tidegate_published_total{outcome=\"duplicate\"} 0",
        "tidegate_errors_total{transport=\"poll\",code=\"4002\",reason=\"authentication_failed\"} 0",
        "tidegate_closed_total{transport=\"websocket\",code=\"1012\",reason=\"restart\"} 0",
        "tidegate_gaps_total{reason=\"epoch_changed\"} 0",
        "# UNIT tidegate_fanout_seconds seconds",
        "tidegate_fanout_seconds_count 0",
        "tidegate_fanout_seconds_bucket{le=\"0.0001\"} 0",
        "tidegate_fanout_seconds_bucket{le=\"10.0\"} 0",
        "tidegate_fanout_seconds_bucket{le=\"+Inf\"} 0",
        "tidegate_channels 0",
        "tidegate_log_bytes 0",
        "tidegate_draining 0",
        concat!("tidegate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(page.lines().any(|found| found == line), "no line {line} in:\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
    assert_eq!(page.matches("tidegate_errors_total{").count(), 19 * 4);
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_has_its_standard_names() {
    let page = Metrics::new().render(&Gauges::default());
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value >= 0.0), "no {name} in:\n{page}");
    }
}

#[test]
fn a_connection_counts_until_its_guard_drops() {
    assert!(size_of::<ActiveGuard>() <= 16 && size_of::<TcpGuard>() <= 8);
    let metrics = Arc::new(Metrics::new());
    let first = metrics.connection(Transport::WebSocket);
    let second = metrics.connection(Transport::WebSocket);
    let socket = metrics.tcp_opened();
    drop(first);
    assert_eq!(lines(&metrics, "websocket_connections_active "), ["websocket_connections_active 1"]);
    assert_eq!(
        lines(&metrics, "tidegate_connections_active{transport=\"websocket\"}"),
        ["tidegate_connections_active{transport=\"websocket\"} 1"]
    );
    assert_eq!(lines(&metrics, "tidegate_tcp_connections_active "), ["tidegate_tcp_connections_active 1"]);
    drop((second, socket));
    assert_eq!(lines(&metrics, "websocket_connections_active "), ["websocket_connections_active 0"]);
    assert_eq!(
        lines(&metrics, "tidegate_tcp_connections_"),
        ["tidegate_tcp_connections_active 0", "tidegate_tcp_connections_total 1"]
    );
    assert_eq!(
        lines(&metrics, "tidegate_connections_opened_total{transport=\"websocket\"}"),
        ["tidegate_connections_opened_total{transport=\"websocket\"} 2"]
    );
}

#[test]
fn each_event_has_its_own_series() {
    let metrics = Metrics::new();
    metrics.sent(Transport::WebSocket, 64);
    metrics.sent(Transport::Sse, 3);
    metrics.received(Transport::WebSocket, 2);
    metrics.fault(Transport::Poll, Kind::RateLimited);
    metrics.fault(Transport::WebSocket, Kind::Malformed);
    metrics.fault(Transport::WebSocket, Kind::UnknownType);
    metrics.gap(GapReason::SlowConsumer);
    metrics.handshake(Stage::Tls, false);
    metrics.handshake(Stage::WebSocket, true);
    metrics.published(true);
    metrics.delivered(Duration::from_micros(1500));
    let page = metrics.render(&Gauges { channels: 7, log_bytes: 4096, draining: true, ..Gauges::default() });
    let counted: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("tidegate_") || line.starts_with("websocket_"))
        .filter(|line| !line.ends_with(" 0") && !line.contains("_bucket") && !line.contains("build_info"))
        .collect();
    assert_eq!(
        counted,
        [
            "tidegate_messages_sent_total{transport=\"websocket\"} 64",
            "tidegate_messages_sent_total{transport=\"sse\"} 3",
            "tidegate_messages_received_total{transport=\"websocket\"} 2",
            "tidegate_malformed_total{transport=\"websocket\"} 2",
            "tidegate_rate_limited_total{transport=\"poll\"} 1",
            "websocket_messages_sent_total 64",
            "websocket_messages_received_total 2",
            "tidegate_handshakes_total{stage=\"tls\",outcome=\"failed\"} 1",
            "tidegate_handshakes_total{stage=\"websocket\",outcome=\"ok\"} 1",
            "tidegate_published_total{outcome=\"duplicate\"} 1",
            "tidegate_errors_total{transport=\"websocket\",code=\"4000\",reason=\"malformed\"} 1",
            "tidegate_errors_total{transport=\"websocket\",code=\"4000\",reason=\"unknown_type\"} 1",
            "tidegate_errors_total{transport=\"poll\",code=\"4004\",reason=\"rate_limited\"} 1",
            "tidegate_gaps_total{reason=\"slow_consumer\"} 1",
            "tidegate_channels 7",
            "tidegate_draining 1",
            "tidegate_fanout_seconds_sum 0.0015",
            "tidegate_fanout_seconds_count 1",
            "tidegate_log_bytes 4096",
        ]
    );
    assert!(page.contains("_bucket{le=\"0.001\"} 0\n") && page.contains("_bucket{le=\"0.0025\"} 1\n"));
}

#[test]
fn a_client_cannot_make_series() {
    let metrics = Metrics::new();
    let before = lines(&metrics, "tidegate_closed_total").len();
    for code in 0..=u16::MAX {
        metrics.closed(Transport::WebSocket, code, "peer");
    }
    assert_eq!(lines(&metrics, "tidegate_closed_total").len(), before + 16 + 6 + 1);
    assert!(
        metrics
            .render(&Gauges::default())
            .contains("tidegate_closed_total{transport=\"websocket\",code=\"1001\",reason=\"peer\"} 1\n")
    );
}
