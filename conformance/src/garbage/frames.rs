//! What comes after a good WebSocket handshake: noise, frames with a bit turned over, frames that RFC 6455 §5 forbids,
//! and well-made frames with envelopes that are none.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Soil, Specimen, envelopes, flip, noise};
use crate::wire::Request;
use crate::wire::websocket::{self, FIN, opcode};

pub(super) fn specimen(rng: &mut StdRng, soil: &Soil) -> Specimen {
    let mut head = upgrade(rng, soil);
    match rng.random_range(0..7) {
        0 => {
            flip(rng, &mut head);
            Specimen { kind: "flipped handshake", pieces: vec![head, valid_frames(rng)] }
        }
        1 => Specimen { kind: "handshake and noise", pieces: vec![head, noise(rng, 2048)] },
        2 => {
            let mut frames = valid_frames(rng);
            flip(rng, &mut frames);
            Specimen { kind: "flipped frames", pieces: vec![head, frames] }
        }
        3 => {
            let mut frames = valid_frames(rng);
            frames.truncate(rng.random_range(1..frames.len()));
            Specimen { kind: "half a frame", pieces: vec![head, frames] }
        }
        4 => Specimen { kind: "forbidden frames", pieces: vec![head, forbidden(rng)] },
        5 => {
            let frames = (0..rng.random_range(1..30)).flat_map(|_| text(rng, &envelopes::wrong)).collect();
            Specimen { kind: "wrong envelopes", pieces: vec![head, frames] }
        }
        _ => {
            // In pieces of any size, so that the reader meets every boundary.
            let frames = valid_frames(rng);
            let cuts = rng.random_range(1..40);
            let mut pieces = vec![head];
            pieces.extend(frames.chunks(frames.len().div_ceil(cuts)).map(<[u8]>::to_vec));
            Specimen { kind: "good frames in crumbs", pieces }
        }
    }
}

fn upgrade(rng: &mut StdRng, soil: &Soil) -> Vec<u8> {
    let n = rng.random_range(0..8);
    let path =
        if rng.random_bool(0.5) { "/v1/ws".to_owned() } else { format!("/v1/ws?channels=garbage:{n}") };
    let mut request = Request::get(path).header("sec-websocket-protocol", "tidegate.v1.json");
    if rng.random_bool(0.8) {
        request = request.bearer(&soil.token);
    }
    websocket::handshake(request, "dGhlIHNhbXBsZSBub25jZQ==").to_bytes(&soil.authority)
}

fn valid_frames(rng: &mut StdRng) -> Vec<u8> {
    (0..rng.random_range(1..8)).flat_map(|_| text(rng, &envelopes::right)).collect()
}

fn text(rng: &mut StdRng, envelope: &dyn Fn(&mut StdRng) -> String) -> Vec<u8> {
    let envelope = envelope(rng);
    websocket::masked(FIN | opcode::TEXT, envelope.as_bytes(), rng.random())
}

/// Each of them is a reason to fail the connection.
fn forbidden(rng: &mut StdRng) -> Vec<u8> {
    let mut frame = |first: u8, payload: &[u8]| websocket::masked(first, payload, rng.random());
    let all: Vec<Vec<u8>> = vec![
        // Reserved bits and opcodes, §5.2.
        frame(FIN | 0x40 | opcode::TEXT, b"{}"),
        frame(FIN | 0x30 | opcode::TEXT, b"{}"),
        frame(FIN | 0x3, b"{}"),
        frame(FIN | 0xB, b""),
        // Control frames in fragments or too long, §5.5.
        frame(opcode::PING, b"x"),
        frame(FIN | opcode::PING, &[b'x'; 126]),
        frame(FIN | opcode::CLOSE, &[0x03]),
        frame(FIN | opcode::CLOSE, &[0x03, 0xed]),
        frame(FIN | opcode::CLOSE, &[0x03, 0xe8, 0xff, 0xfe]),
        // A continuation of nothing, a message inside another, §5.4.
        frame(FIN | opcode::CONTINUATION, b"{}"),
        [frame(opcode::TEXT, b"{"), frame(FIN | opcode::TEXT, b"{}")].concat(),
        // No UTF-8, §8.1.
        frame(FIN | opcode::TEXT, &[0xff, 0xfe, 0xfd]),
        [frame(opcode::TEXT, &[0xe2, 0x82]), frame(FIN | opcode::CONTINUATION, &[0x28])].concat(),
        // A binary message, which this protocol does not have.
        frame(FIN | opcode::BINARY, &[0; 64]),
        // Fragments without end.
        [frame(opcode::TEXT, b"["), frame(opcode::CONTINUATION, &[b'1'; 60_000]).repeat(3)].concat(),
        // A message beyond any limit, announced and begun.
        [&[FIN | opcode::TEXT, 0xff][..], &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0; 100]]
            .concat(),
        [&[FIN | opcode::TEXT, 0xff][..], &[0xff; 8], &[0; 100]].concat(),
        // No mask, §5.1.
        [&[FIN | opcode::TEXT, 2][..], b"{}"].concat(),
        // Lengths in more bytes than needed, §5.2.
        [&[FIN | opcode::TEXT, 0xfe, 0, 2][..], &[0; 4], b"{}"].concat(),
    ];
    all.choose(rng).expect("it is not empty").clone()
}
