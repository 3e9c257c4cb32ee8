//! What the strict frame layer costs: a million small frames of one client over loopback TCP, read by fastwebsockets
//! alone and as the edge reads them, with the guard in front. Prints the CPU time of the reading thread, system calls
//! included, from rounds that take turns. Left to itself, fastwebsockets' buffer grows to 2 MB under such a flood, which
//! saves system calls; the ratio is to fastwebsockets with reads as large as the edge's, 8 KB.
//! `cargo bench --bench frame_layer [-- PART_OF_A_NAME]`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream as StdStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use fastwebsockets::{Role, WebSocket};
use tidegate::deflate::deflate;
use tidegate::transport::websocket::{FrameReader, Inbound};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const FRAMES: u32 = 1_000_000;
const ROUNDS: usize = 7;
const MESSAGE_BYTES: usize = 65_536;
const READ_BYTES: usize = 8192;
/// Frames of one write: a client that sends as fast as it can.
const BATCH: u32 = 500;

fn main() {
    let ascii = r#"{"type":"message","payload":{"channel":"chat:lobby","data":"hello, is anybody there?"},"metadata":{"message_id":"a1"}}"#;
    let greek =
        r#"{"type":"message","payload":{"channel":"chat:lobby","data":"γειά σου, είναι κανείς εκεί;"}}"#;
    let long = ascii.repeat(8);
    let compressed = deflate(long.as_bytes()).expect("it repeats");
    println!("CPU ns per frame, {FRAMES} frames a round, median of {ROUNDS} rounds");
    println!("{:<28}{:>10}{:>10}{:>10}{:>8}", "", "alone", "8 KB", "edge", "ratio");
    compare("text, ASCII", 0x81, ascii.as_bytes());
    compare("text, half Greek", 0x81, greek.as_bytes());
    compare("binary", 0x82, ascii.as_bytes());
    compare("text of 16 bytes", 0x81, &ascii.as_bytes()[..16]);
    compare("text of 1 KB", 0x81, long.as_bytes());
    // fastwebsockets has no compression: what it does with the same bytes as a binary message.
    let (theirs, ours) = (masked(0x82, &compressed), masked(0xc1, &compressed));
    print("text of 1 KB, compressed", &theirs, &ours);
}

fn compare(name: &str, first: u8, payload: &[u8]) {
    let frame = masked(first, payload);
    print(name, &frame, &frame);
}

fn print(name: &str, theirs: &[u8], ours: &[u8]) {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    if wanted.is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let mut figures = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        figures[0].push(round(theirs, Reader::Fastwebsockets));
        figures[1].push(round(theirs, Reader::SmallReads));
        figures[2].push(round(ours, Reader::Edge));
    }
    let [alone, small, edge] = figures.map(median);
    println!("{name:<28}{alone:>10.1}{small:>10.1}{edge:>10.1}{:>8.3}", edge / small);
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[derive(Clone, Copy)]
enum Reader {
    Fastwebsockets,
    SmallReads,
    Edge,
}

/// CPU nanoseconds per frame.
fn round(frame: &[u8], reader: Reader) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it is bound");
    let batch = frame.repeat(BATCH as usize);
    let writing = thread::spawn(move || {
        let mut stream = StdStream::connect(address).expect("it listens");
        for _ in 0..FRAMES / BATCH {
            stream.write_all(&batch).expect("it reads");
        }
    });
    let reading = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("it connects");
        stream.set_nonblocking(true).expect("sockets can");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime is made").block_on(async {
            let stream = TcpStream::from_std(stream).expect("a runtime is there");
            let before = thread_cpu();
            match reader {
                Reader::Fastwebsockets => read_with_fastwebsockets(stream).await,
                Reader::SmallReads => read_with_fastwebsockets(SmallReads(stream)).await,
                Reader::Edge => read_with_edge(stream).await,
            }
            thread_cpu().saturating_sub(before)
        })
    });
    writing.join().expect("the writer ends");
    reading.join().expect("the reader ends").as_secs_f64() * 1e9 / f64::from(FRAMES)
}

async fn read_with_fastwebsockets(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = WebSocket::after_handshake(stream, Role::Server);
    for _ in 0..FRAMES {
        black_box(socket.read_frame().await.expect("the frames are good"));
    }
}

async fn read_with_edge(mut stream: TcpStream) {
    let mut reader = FrameReader::new(MESSAGE_BYTES, true);
    let mut arrived = VecDeque::new();
    let mut messages = 0;
    while messages < FRAMES {
        std::future::poll_fn(|context| {
            let mut buffer = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut buffer);
            ready!(Pin::new(&mut stream).poll_read(context, &mut buffer)).expect("the client writes");
            reader.feed(buffer.filled(), &mut arrived).expect("the frames are good");
            Poll::Ready(())
        })
        .await;
        for message in arrived.drain(..) {
            if let Inbound::Deflated(deflated) = &message {
                black_box(reader.inflate(deflated)).expect("it is good");
            }
            black_box(message);
            messages += 1;
        }
    }
}

/// A socket of which no read takes more than the edge's.
struct SmallReads(TcpStream);

impl AsyncRead for SmallReads {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [const { MaybeUninit::uninit() }; READ_BYTES];
        let room = into.remaining().min(READ_BYTES);
        let mut buffer = ReadBuf::uninit(&mut buffer[..room]);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer))?;
        into.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

/// Nothing is written here.
impl AsyncWrite for SmallReads {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A client's frame; the payload has less than 64 KB.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match u16::try_from(payload.len()).expect("a small frame") {
        short @ ..126 => frame.push(0x80 | short.to_be_bytes()[1]),
        long => frame.extend([&[0x80 | 0x7e][..], &long.to_be_bytes()].concat()),
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What this thread has run so far, from the first field of its schedstat, in nanoseconds.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts it");
    let nanos = stat.split(' ').next().and_then(|field| field.parse().ok()).expect("it is a number");
    Duration::from_nanos(nanos)
}
