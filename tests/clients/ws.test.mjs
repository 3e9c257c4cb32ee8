// `ws` as an application uses it. Started by test_node.py, which says where the server is and gives tokens.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { randomUUID } from "node:crypto";
import WebSocket from "ws";

const { EDGE, ALICE, BOB, EXPIRED } = process.env;

/** An open connection that keeps what arrives until somebody asks for it. */
function connect({ token, query = "", protocols = ["tidegate.v1.json"], ...options } = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const socket = new WebSocket(`wss://${EDGE}/v1/ws${query}`, protocols, { headers, ...options });
  const arrived = [];
  let wake = () => {};
  socket.on("message", (data, isBinary) => {
    assert.equal(isBinary, false);
    arrived.push(JSON.parse(data));
    wake();
  });
  const closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve({ code, reason: `${reason}` })));
  const next = async () => {
    while (arrived.length === 0) {
      await new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new Error("nothing came in 5 s")), 5000);
        wake = () => (clearTimeout(late), resolve());
      });
    }
    return arrived.shift();
  };
  const until = async (type) => {
    for (;;) {
      const envelope = await next();
      if (envelope.type === type) return envelope;
    }
  };
  const send = (type, payload = {}, metadata = {}) => socket.send(JSON.stringify({ type, payload, metadata }));
  return { socket, next, until, send, closed };
}

test("selects the subprotocol and says who one is", async () => {
  const alice = connect({ token: ALICE });
  const established = await alice.next();
  assert.equal(established.type, "connection_established");
  assert.equal(established.payload.user_id, "alice");
  assert.equal(alice.socket.protocol, "tidegate.v1.json");
  alice.socket.close(1000);
  assert.equal((await alice.closed).code, 1000);
});

test("compresses both ways", async () => {
  const room = `chat:${randomUUID()}`;
  const alice = connect({ token: ALICE, query: `?channels=${room}`, perMessageDeflate: { threshold: 0 } });
  await once(alice.socket, "open");
  assert.match(alice.socket.extensions, /^permessage-deflate/);
  const data = "compressed ".repeat(500);
  alice.send("message", { channel: room, data });
  assert.equal((await alice.until("message")).payload.data, data);
  alice.socket.terminate();
});

test("two users chat", async () => {
  const room = `chat:${randomUUID()}`;
  const alice = connect({ token: ALICE, query: `?channels=${room}` });
  const bob = connect({ token: BOB });
  const joined = await alice.until("room_joined");
  await bob.until("connection_established");
  for (let number = 0; number < 100; number += 1) {
    bob.send("message", { channel: room, data: { number } }, { correlation_id: `${number}` });
  }
  let prev = joined.payload.seq;
  for (let number = 0; number < 100; number += 1) {
    const { type, payload } = await alice.next();
    assert.equal(type, "message");
    assert.deepEqual(payload.data, { number });
    assert.equal(payload.sender_id, "bob");
    assert.equal(payload.prev, prev);
    prev = payload.seq;
    const ack = await bob.until("message_ack");
    assert.equal(ack.metadata.correlation_id, `${number}`);
    assert.equal(ack.payload.seq, payload.seq);
  }
  alice.socket.terminate();
  bob.socket.terminate();
});

test("takes a token as a subprotocol", async () => {
  const alice = connect({ protocols: ["tidegate.v1.json", `tidegate.bearer.${ALICE}`] });
  assert.equal((await alice.next()).payload.user_id, "alice");
  assert.equal(alice.socket.protocol, "tidegate.v1.json");
  alice.socket.terminate();
});

test("accepts a handshake that it refuses, and says why", async () => {
  const expired = connect({ token: EXPIRED });
  assert.equal((await expired.next()).payload.code, 4002);
  assert.deepEqual(await expired.closed, { code: 4002, reason: "authentication_failed" });
  const evil = connect({ token: ALICE, origin: "https://evil.example.com" });
  assert.equal((await evil.next()).payload.code, 4003);
  assert.deepEqual(await evil.closed, { code: 4003, reason: "origin_not_allowed" });
});

test("answers a binary message with an error and lives on", async () => {
  const alice = connect({ token: ALICE });
  await alice.next();
  alice.socket.send(Buffer.from([1, 2, 3]));
  assert.equal((await alice.next()).payload.reason, "malformed");
  alice.send("ping");
  assert.equal((await alice.next()).type, "pong");
  alice.socket.terminate();
});

test("closes over a message that is too large, in one frame or in many", async () => {
  for (const isFragmented of [false, true]) {
    const alice = connect({ token: ALICE });
    await alice.next();
    if (isFragmented) {
      for (let at = 0; at < 40; at += 1) alice.socket.send("x".repeat(1000), { fin: at === 39 });
    } else {
      alice.socket.send("x".repeat(40_000));
    }
    assert.equal((await alice.closed).code, 4005);
  }
});

test("answers pings", async () => {
  const alice = connect({ token: ALICE });
  await once(alice.socket, "open");
  alice.socket.ping("there?");
  const [pong] = await once(alice.socket, "pong");
  assert.equal(`${pong}`, "there?");
  alice.socket.terminate();
});
