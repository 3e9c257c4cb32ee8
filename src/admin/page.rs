//! The pages of the admin listener: from a request's method and path to a whole response.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio::sync::Semaphore;

use super::{AdminState, Phase, revocations};
use crate::close::{Fault, Kind};
use crate::metrics::{self, Gauges};

/// All pages, and what they share.
pub(super) struct Pages {
    state: Arc<AdminState>,
    /// One scrape at a time: each walks all channels and reads `/proc`, on a thread of its own.
    scrape: Semaphore,
}

const REVOCATIONS: &str = "/revocations";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

impl Pages {
    /// The pages that tell of this state.
    pub(super) fn new(state: Arc<AdminState>) -> Self {
        Self { state, scrape: Semaphore::new(1) }
    }

    /// Answers one request; whatever it asks, there is an answer.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let allowed = match path {
            "/metrics" | "/livez" | "/readyz" => "GET, HEAD",
            REVOCATIONS => "GET, HEAD, POST",
            _ => {
                let pages = "there are /metrics, /livez, /readyz and /revocations";
                return problem(&Fault::new(Kind::NotFound, pages));
            }
        };
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            REVOCATIONS if request.method() == Method::POST => self.revoke(request).await,
            _ if !reads => {
                let mut refusal = problem(&Fault::new(Kind::MethodNotAllowed, "this page is not for that"));
                // RFC 9110 §15.5.6: a 405 names the methods that are allowed.
                refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
                refusal
            }
            REVOCATIONS => response(StatusCode::OK, JSON, revocations::list(&self.state)),
            "/metrics" => self.metrics().await,
            "/readyz" => self.ready(),
            _ => response(StatusCode::OK, TEXT, "ok"),
        }
    }

    async fn revoke(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        match revocations::revoke(&self.state, &head.headers, body).await {
            Ok((status, revocation)) => response(status, JSON, revocation),
            Err(fault) => problem(&fault),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let phase = self.state.readiness.phase();
        match (phase, self.state.hub.trouble()) {
            (Phase::Ready, None) => response(StatusCode::OK, TEXT, phase.as_str()),
            (Phase::Ready, Some(trouble)) => {
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("bus: {trouble}"))
            }
            (Phase::Starting | Phase::Draining, _) => {
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, phase.as_str())
            }
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let _turn = self.scrape.acquire().await.expect("the semaphore is never closed");
        let state = Arc::clone(&self.state);
        let rendered = tokio::task::spawn_blocking(move || {
            let (channels, log_bytes) = state.hub.usage();
            let report = state.hub.bus_report();
            state.metrics.render(&Gauges {
                channels,
                log_bytes,
                draining: state.readiness.is_draining(),
                revocations: state.revocations.len(),
                bus_up: state.hub.trouble().is_none(),
                subscriptions: report.subscriptions,
                bus_events: report.events,
            })
        });
        match rendered.await {
            Ok(page) => response(StatusCode::OK, metrics::CONTENT_TYPE, page),
            Err(error) => {
                tracing::error!(%error, "the metrics could not be rendered");
                problem(&Fault::new(Kind::Internal, "the metrics could not be rendered"))
            }
        }
    }
}

fn response(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// RFC 9457: `title` and `status`, and the members of an `error` envelope's payload.
fn problem(fault: &Fault) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(fault.kind.status()).expect("the catalogue holds HTTP statuses");
    let body = serde_json::to_vec(&Problem(fault)).expect("a fault serializes");
    response(status, PROBLEM, body)
}

struct Problem<'a>(&'a Fault);

impl Serialize for Problem<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("title", self.0.kind.title())?;
        map.serialize_entry("status", &self.0.kind.status())?;
        self.0.serialize_members(&mut map)?;
        map.end()
    }
}
