//! Garbage below TLS: where a handshake was expected, inside one, and on the socket of one that had succeeded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Seen, Soil, Specimen, flip, noise, requests, send};
use crate::wire::{Dial, Target};

/// A socket that turns over one bit of what is written to it.
struct Flipping {
    tcp: TcpStream,
    /// The byte, counted from the first that is written, until it has gone.
    at: Option<usize>,
    bit: u8,
}

pub(super) async fn below(target: &Target, soil: &Soil, mut rng: StdRng) -> Seen {
    let Ok(tcp) = target.connect_tcp(Dial::default()).await else {
        return Seen { kind: "below TLS", bytes: 0, status: None, refused: true };
    };
    let plain: fn(&TcpStream) -> &TcpStream = |tcp| tcp;
    match rng.random_range(0..6) {
        0 => {
            let specimen = Specimen { kind: "noise for a handshake", pieces: vec![noise(&mut rng, 4096)] };
            send(tcp, plain, specimen, rng).await
        }
        1 => {
            let pieces = vec![requests::valid(&mut rng, soil)];
            send(tcp, plain, Specimen { kind: "plain HTTP on TLS", pieces }, rng).await
        }
        2 => {
            let mut hello = client_hello(target);
            flip(&mut rng, &mut hello);
            send(tcp, plain, Specimen { kind: "flipped hello", pieces: vec![hello] }, rng).await
        }
        3 => {
            let mut hello = client_hello(target);
            hello.truncate(rng.random_range(1..hello.len()));
            send(tcp, plain, Specimen { kind: "half a hello", pieces: vec![hello] }, rng).await
        }
        4 => flipped_on_the_way(target, soil, tcp, rng).await,
        _ => noise_under_tls(target, tcp, rng).await,
    }
}

/// One bit is turned over somewhere between the hello and the first request.
async fn flipped_on_the_way(target: &Target, soil: &Soil, tcp: TcpStream, mut rng: StdRng) -> Seen {
    let kind = "flipped on the way";
    let tls = target.tls().expect("it is a TLS edge");
    let flipping = Flipping { tcp, at: Some(rng.random_range(0..900)), bit: 1 << rng.random_range(0..8) };
    let handshake = tls.connect(server_name(), flipping);
    match timeout(Duration::from_secs(5), handshake).await {
        Ok(Ok(stream)) => {
            let pieces = vec![requests::valid(&mut rng, soil)];
            let socket: fn(&TlsStream<Flipping>) -> &TcpStream = |tls| &tls.get_ref().0.tcp;
            send(stream, socket, Specimen { kind, pieces }, rng).await
        }
        // The server has noticed.
        _ => Seen { kind, bytes: 0, status: None, refused: false },
    }
}

/// A good handshake, and then bytes that are no records.
async fn noise_under_tls(target: &Target, tcp: TcpStream, mut rng: StdRng) -> Seen {
    let kind = "noise under TLS";
    let tls = target.tls().expect("it is a TLS edge");
    match timeout(Duration::from_secs(5), tls.connect(server_name(), tcp)).await {
        Ok(Ok(stream)) => {
            let (tcp, _) = stream.into_inner();
            let specimen = Specimen { kind, pieces: vec![noise(&mut rng, 4096)] };
            send(tcp, |tcp| tcp, specimen, rng).await
        }
        _ => Seen { kind, bytes: 0, status: None, refused: true },
    }
}

fn client_hello(target: &Target) -> Vec<u8> {
    let config = target.tls().expect("it is a TLS edge").config().clone();
    let mut client = ClientConnection::new(config, server_name()).expect("the configuration is good");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a Vec takes all");
    hello
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("it is a name")
}

impl AsyncRead for Flipping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Flipping {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut spoilt = buf.to_vec();
        if let Some(byte) = this.at.and_then(|at| spoilt.get_mut(at)) {
            *byte ^= this.bit;
        }
        let written = Pin::new(&mut this.tcp).poll_write(cx, &spoilt);
        if let Poll::Ready(Ok(count)) = written {
            this.at = this.at.and_then(|at| at.checked_sub(count));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
