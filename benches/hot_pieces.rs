//! The pieces that every message or connection passes through, each alone: a publication read, encoded and appended; a
//! cursor that reads a batch; frames read, with compression and without; a cursor string. CPU only, no sockets: what a
//! whole server costs is measured by `./test bench`.
//! `cargo bench --bench hot_pieces [-- PART_OF_A_NAME]`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::value::RawValue;
use tidegate::channel::{
    Channel, ChannelName, Epoch, Item, MessageId, Position, Publication, Resume, Retention, Viewer,
};
use tidegate::deflate::{deflate, inflate};
use tidegate::envelope;
use tidegate::transport::CursorString;
use tidegate::transport::websocket::{FrameReader, Inbound};

const MESSAGE_BYTES: usize = 65_536;
const VIEWER: Viewer<'_> = Viewer { user_id: "ann", presence: false };

fn publications(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publication");
    for bytes in [128, 4096] {
        let data = data(bytes);
        let text = format!(r#"{{"type":"message","payload":{{"channel":"chat:lobby","data":{data}}}}}"#);
        group.bench_function(BenchmarkId::new("parse", bytes), |bencher| {
            bencher.iter(|| envelope::parse(black_box(text.as_bytes())).expect("it is well formed"));
        });
        let (channel, publication, now) = (channel(128), publication(&data), Instant::now());
        let mut seq = 0;
        group.bench_function(BenchmarkId::new("encode and append", bytes), |bencher| {
            bencher.iter(|| {
                channel.append(now, black_box(&publication), || {
                    seq += 1;
                    seq
                })
            });
        });
        let json = envelope_of(&data);
        group.bench_function(BenchmarkId::new("deflate", bytes), |bencher| {
            bencher.iter(|| deflate(black_box(&json)).expect("it repeats"));
        });
    }
    group.finish();
}

fn cursors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cursor");
    let (channel, now) = (channel(4096), Instant::now());
    let publication = publication(&data(128));
    for seq in 1..=1000 {
        channel.append(now, &publication, || seq);
    }
    for messages in [1, 8, 64] {
        let (start, _) = channel.begin(Resume::History(messages), now);
        let mut bytes = Vec::with_capacity(64 << 10);
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(BenchmarkId::new("read", messages), |bencher| {
            bencher.iter(|| {
                let mut cursor = start;
                bytes.clear();
                channel
                    .read(&mut cursor, VIEWER, usize::MAX, |item| match item {
                        Item::Message(message) => bytes.extend_from_slice(&message.json),
                        Item::Passing(json) => bytes.extend_from_slice(json),
                    })
                    .expect("all of it is held")
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let (mut cursor, _) = channel.begin(Resume::Live, now);
    channel.read(&mut cursor, VIEWER, usize::MAX, |_| ()).expect("it is live");
    group.bench_function("nothing new", |bencher| {
        bencher.iter(|| channel.has_news(black_box(&cursor)));
    });
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    const FRAMES: u32 = 64;
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Elements(FRAMES.into()));
    let short = r#"{"type":"message","payload":{"channel":"chat:lobby","data":"hello, is anybody there?"}}"#;
    let long = envelope_of(&data(1024));
    let compressed = deflate(&long).expect("it repeats");
    let cases = [
        ("read, 90 bytes", frame(0x81, short.as_bytes())),
        ("read, 1 KB", frame(0x81, &long)),
        ("read and inflate, 1 KB", frame(0xc1, &compressed)),
    ];
    for (name, frame) in cases {
        let bytes = frame.repeat(FRAMES as usize);
        let (mut reader, mut arrived) = (FrameReader::new(MESSAGE_BYTES, true), VecDeque::new());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // As much as a connection reads at once.
                for part in bytes.chunks(8192) {
                    reader.feed(black_box(part), &mut arrived).expect("the frames are good");
                    for message in arrived.drain(..) {
                        match &message {
                            Inbound::Deflated(deflated) => {
                                drop(reader.inflate(deflated).expect("it is good"));
                            }
                            _ => drop(black_box(message)),
                        }
                    }
                }
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("inflate alone, 1 KB", |bencher| {
        bencher.iter(|| inflate(black_box(&compressed), MESSAGE_BYTES).expect("it is good"));
    });
    group.finish();
}

fn cursor_strings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cursor string");
    for channels in [1, 128] {
        let names: Vec<ChannelName> =
            (0..channels).map(|index| format!("chat:{index}").parse().expect("a name")).collect();
        let position = Position { epoch: Epoch::new(7), seq: 123_456 };
        let encode = || CursorString::encode(None, names.iter().map(|name| (name, position, 0)));
        group.bench_function(BenchmarkId::new("encode", channels), |bencher| bencher.iter(encode));
        let text = encode();
        group.bench_function(BenchmarkId::new("parse", channels), |bencher| {
            bencher.iter(|| CursorString::parse(black_box(&text)).expect("it was just made"));
        });
    }
    group.finish();
}

fn channel(history_size: usize) -> Arc<Channel> {
    let retention = Retention {
        history_size,
        history_bytes: 8 << 20,
        history_ttl: Duration::from_mins(10),
        lag_bytes: 1 << 20,
        lag: Duration::from_secs(10),
    };
    let name = "chat:lobby".parse().expect("a name");
    let floor = Position { epoch: Epoch::random(), seq: 0 };
    Arc::new(Channel::new(name, retention, &Arc::default(), floor, Instant::now()))
}

fn publication(data: &str) -> Publication {
    Publication {
        channel: "chat:lobby".parse().expect("a name"),
        sender_id: "ann".into(),
        client_id: uuid::Uuid::new_v4(),
        message_id: MessageId::random(),
        idempotent: false,
        timestamp: SystemTime::now(),
        data: RawValue::from_string(data.to_owned()).expect("JSON"),
    }
}

/// The whole envelope of a message with that data, as it is stored.
fn envelope_of(data: &str) -> Vec<u8> {
    channel(1).append(Instant::now(), &publication(data), || 1).json.to_vec()
}

/// A JSON string of about that size that compresses as prose does.
fn data(bytes: usize) -> String {
    let words = "the quick brown fox jumps over the lazy dog and comes back to see what it has missed; ";
    let text: String = words.chars().cycle().take(bytes.saturating_sub(2)).collect();
    format!("\"{text}\"")
}

/// A client's frame; the payload has less than 64 KB.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = publications, cursors, frames, cursor_strings
}
criterion_main!(benches);
