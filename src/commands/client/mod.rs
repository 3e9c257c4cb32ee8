//! A client's side of the wire: connect, TLS, HTTP/1.1 requests, WebSocket. What `publish`, `subscribe` and
//! `healthcheck` talk to an edge with; it knows nothing of this process's own configuration.

mod refusal;
mod trust;
mod url;
mod websocket;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use fastwebsockets::WebSocketError;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::http::request::Builder;
use hyper::http::response::Parts;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Failure;
use crate::config::Source;
pub(super) use refusal::Refusal;
pub(super) use url::EdgeUrl;
pub(super) use websocket::{Received, WebSocket};

/// Where the edge is, and who asks.
#[derive(Args)]
pub(super) struct ClientFlags {
    #[arg(
        long,
        value_name = "URL",
        help = "Where the edge is [env: TIDEGATE_URL] [default: https://localhost:8443]"
    )]
    url: Option<EdgeUrl>,
    // In the environment other users of the machine cannot see it.
    #[arg(
        long,
        value_name = "TOKEN",
        help = "Who asks; without a token a guest [env: TIDEGATE_TOKEN, safer]"
    )]
    token: Option<String>,
    /// Trust this PEM certificate and no other; on localhost certs/dev.crt is trusted without it
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Trust any certificate: whoever is in between can read and change everything
    #[arg(long)]
    insecure: bool,
}

/// Why an edge could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error("cannot connect to {url}: {source}")]
    Connect {
        /// Where to.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is a connection, but no TLS on it.
    #[error("no TLS with {url}: {source}{advice}")]
    Tls {
        /// Where to.
        url: String,
        /// What went wrong.
        source: io::Error,
        /// What may help, if that is known.
        advice: &'static str,
    },
    /// Nothing came for too long.
    #[error("{url} does not answer")]
    Silent {
        /// Who.
        url: String,
    },
    /// The connection broke, or the other side does not speak HTTP.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// The connection broke, or the other side does not speak WebSocket.
    #[error("the WebSocket broke: {}", cause(.0))]
    WebSocket(#[from] WebSocketError),
    /// The edge said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The edge, or what answers in its place, said something that makes no sense.
    #[error("that is no answer of an edge: {0}")]
    Nonsense(String),
    /// The edge is done with it.
    #[error("the edge ended the connection{0}")]
    Ended(String),
}

fn cause(error: &WebSocketError) -> String {
    match error {
        // In words of its own: rustls names a page of its manual.
        WebSocketError::IoError(io) if io.kind() == io::ErrorKind::UnexpectedEof => "cut off".to_owned(),
        WebSocketError::UnexpectedEOF => "cut off".to_owned(),
        other => other.to_string(),
    }
}

/// Longest answer that is read, in bytes: beyond what one poll or history page of large messages amounts to.
const ANSWER_BYTES: usize = 256 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// For the head of an answer that the edge does not hold back on purpose.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// Knows where an edge is and how to be let in.
pub(super) struct Client {
    url: EdgeUrl,
    tls: Option<TlsConnector>,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// From flags, then from the environment.
    pub(super) fn new(flags: ClientFlags) -> Result<Self, Failure> {
        let source = Source::of_process(None, Vec::new());
        let url = match (flags.url, source.variable("TIDEGATE_URL")?) {
            (Some(url), _) => url,
            (None, Some(text)) => {
                text.parse().map_err(|error| Failure::Usage(format!("TIDEGATE_URL = {text:?}: {error}")))?
            }
            (None, None) => EdgeUrl::default(),
        };
        let token = match flags.token {
            Some(token) => Some(token),
            None => source.variable("TIDEGATE_TOKEN")?.map(str::to_owned),
        };
        let authorization = token.map(|token| bearer(&token)).transpose()?;
        let tls = url.tls.then(|| trust::connector(&url, flags.ca.as_deref(), flags.insecure)).transpose()?;
        Ok(Self { url, tls, authorization })
    }

    /// Without TLS and token: how operators ask.
    pub(super) fn plain(url: EdgeUrl) -> Self {
        Self { url, tls: None, authorization: None }
    }

    /// For messages.
    pub(super) fn url(&self) -> &EdgeUrl {
        &self.url
    }

    /// Begins a request for that path and query below the edge's own.
    pub(super) fn request(&self, method: Method, path: &str) -> Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.path))
            .header(HOST, &self.url.authority)
            .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Opens a connection: HTTP/1.1, by TLS if the URL says so.
    pub(super) async fn connect(&self) -> Result<Connection, ClientError> {
        let silent = |_| ClientError::Silent { url: self.url.to_string() };
        timeout(CONNECT, self.connect_patiently()).await.map_err(silent)?
    }

    async fn connect_patiently(&self) -> Result<Connection, ClientError> {
        let url = || self.url.to_string();
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port))
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| ClientError::Connect { url: url(), source })?;
        let Some(tls) = &self.tls else { return Connection::begin(stream).await };
        let stream = tls
            .connect(self.url.server_name(), stream)
            .await
            .map_err(|source| ClientError::Tls { url: url(), advice: trust::advice(&source), source })?;
        Connection::begin(stream).await
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
        Failure::Usage("a token has no spaces, line ends or other such characters".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// One connection to an edge; dropping it closes it.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinSet<()>,
}

impl Connection {
    async fn begin<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        stream: S,
    ) -> Result<Self, ClientError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What goes wrong here also ends the request that waits for it, which then says so.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, driver })
    }

    /// Whether another request can be sent on it.
    pub(super) async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and reads its whole answer, whose head may take `patience`.
    pub(super) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(Parts, Bytes), ClientError> {
        let (head, rest) = self.send(request, patience).await?.into_parts();
        Ok((head, body(rest).await?))
    }

    /// Sends a request and waits for the head of the answer, at most `patience`. Its body comes for as long as this
    /// connection is there.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let url =
            request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        let silent = |_| ClientError::Silent { url: url.unwrap_or_default() };
        Ok(timeout(patience, self.sender.send_request(request)).await.map_err(silent)??)
    }
}

/// The whole of an answer's body.
pub(super) async fn body(body: Incoming) -> Result<Bytes, ClientError> {
    let whole = timeout(ANSWER, Limited::new(body, ANSWER_BYTES).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(ClientError::Http(*error)),
            Err(error) => Err(ClientError::Nonsense(error.to_string())),
        },
        Err(_) => Err(ClientError::Nonsense("its end does not come".to_owned())),
    }
}
