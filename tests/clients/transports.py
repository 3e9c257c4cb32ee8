"""The three transports behind one face, so that a test can state once what must hold on all of them.

`websocket`, `event_stream` and `poller` are for tests of one; `subscribe` takes the transport's name.
"""

import asyncio
import json
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import websockets
from websockets.asyncio.client import connect

from documents import check_asked
from edge import Edge
from wire import Envelope, raw_items

TRANSPORTS = ["ws", "sse", "poll"]
SUBPROTOCOL = "tidegate.v1.json"
SOON = 5.0  # what a loaded machine may take for something that should be immediate


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


class Receiver:
    """A subscriber, by whatever transport. It follows the position of each channel as a client would."""

    def __init__(self):
        self.early: deque[Envelope] = deque()
        self.position: dict[str, tuple[str, int]] = {}
        self.cursor: str | None = None
        self.joined: dict[str, Envelope] = {}

    async def _next(self) -> Envelope:
        raise NotImplementedError

    async def _fresh(self, timeout: float) -> Envelope:
        envelope = await asyncio.wait_for(self._next(), timeout)
        payload = envelope.payload
        if envelope.type in ("room_joined", "message"):
            self.position[payload["channel"]] = (payload["epoch"], payload["seq"])
        return envelope

    async def receive(self, timeout: float = SOON) -> Envelope:
        return self.early.popleft() if self.early else await self._fresh(timeout)

    async def expect(self, type: str, timeout: float = SOON) -> Envelope:
        """The next envelope, which must be of that type."""
        envelope = await self.receive(timeout)
        assert envelope.type == type, f"expected {type}, got {envelope.raw}"
        return envelope

    async def until(self, type: str, timeout: float = SOON, **payload) -> Envelope:
        """The next envelope of that type whose payload has these values; what comes before is dropped."""
        deadline = time.monotonic() + timeout
        while True:
            envelope = await self.receive(max(deadline - time.monotonic(), 0.01))
            if envelope.type == type and payload.items() <= envelope.payload.items():
                return envelope

    async def messages(self, count: int, timeout: float = SOON) -> list[Envelope]:
        """The next `count` envelopes, all of which must be messages."""
        return [await self.expect("message", timeout) for _ in range(count)]

    async def nothing(self, seconds: float = 0.3, type: str | None = None, **payload) -> None:
        """Nothing comes for a while, or nothing of that type with these values."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                envelope = await self.receive(left)
            except TimeoutError:
                return
            relevant = type is None or (envelope.type == type and payload.items() <= envelope.payload.items())
            assert not relevant, f"unexpected: {envelope.raw}"

    def recover(self, channel: str) -> str:
        """The position for the `recover` parameter of SSE and polls."""
        epoch, seq = self.position[channel]
        return f"{epoch}:{seq}"


# ---- WebSocket -----------------------------------------------------------------------------------------------


class Socket(Receiver):
    def __init__(self, connection: websockets.ClientConnection):
        super().__init__()
        self.connection = connection
        self.established: Envelope | None = None

    async def _next(self) -> Envelope:
        frame = await self.connection.recv()
        assert isinstance(frame, str), "envelopes come in text frames"
        return Envelope(frame)

    async def send(self, type: str, payload: dict | None = None, **metadata) -> None:
        await self.send_text(json.dumps({"type": type, "payload": payload or {}, "metadata": metadata}))

    async def send_text(self, text: str) -> None:
        await self.connection.send(text)

    async def ask(self, type: str, payload: dict | None = None, **metadata) -> Envelope:
        """Sends with a correlation id and returns the answer to it; what comes before it is kept for `receive`."""
        asked = {"type": type, "payload": payload or {}, "metadata": {"correlation_id": uuid.uuid4().hex} | metadata}
        await self.send_text(json.dumps(asked))
        while True:
            envelope = await self._fresh(SOON)
            if envelope.correlation_id == asked["metadata"]["correlation_id"]:
                check_asked(asked, envelope)
                return envelope
            self.early.append(envelope)

    async def join(self, channel: str, **options) -> Envelope:
        answer = await self.ask("join_room", {"channel": channel} | options)
        assert answer.type == "room_joined", answer.raw
        self.cursor = answer.payload["cursor"]
        return answer

    async def publish(self, channel: str, data, **metadata) -> Envelope:
        answer = await self.ask("message", {"channel": channel, "data": data}, **metadata)
        assert answer.type == "message_ack", answer.raw
        return answer

    async def refused(self, type: str, payload: dict | None = None, **metadata) -> dict:
        answer = await self.ask(type, payload, **metadata)
        assert answer.type == "error", answer.raw
        return answer.payload

    async def alive(self) -> None:
        assert (await self.ask("ping")).type == "pong"

    async def closed(self, timeout: float = SOON) -> tuple[int | None, str]:
        """Code and reason of the server's close; envelopes before it are kept for `receive`."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self.early.append(await self._fresh(max(deadline - time.monotonic(), 0.01)))
        except websockets.ConnectionClosed:
            return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def websocket(
    edge: Edge, token: str | None = None, *, query: str | dict = "", headers: dict | None = None, **options
) -> AsyncIterator[Socket]:
    """A connection whose first envelope was `connection_established`."""
    async with raw_websocket(edge, token, query=query, headers=headers, **options) as socket:
        socket.established = await socket.expect("connection_established")
        yield socket


@asynccontextmanager
async def raw_websocket(edge, token=None, *, query="", headers=None, **options) -> AsyncIterator[Socket]:
    options = {"subprotocols": [SUBPROTOCOL], "open_timeout": 10, "close_timeout": 2} | options
    path = "/v1/ws" + (f"?{httpx.QueryParams(query)}" if query else "")
    headers = bearer(token) | (headers or {})
    async with connect(
        edge.url(path, "wss"), ssl=edge.certificate.trust, additional_headers=headers, proxy=None, **options
    ) as connection:
        yield Socket(connection)


# ---- Server-sent events --------------------------------------------------------------------------------------


@dataclass
class Event:
    """What stands between two blank lines (WHATWG HTML §9.2.6)."""

    data: str | None = None
    id: str | None = None
    retry: int | None = None
    comments: int = 0

    @classmethod
    def parse(cls, block: str) -> "Event":
        event = cls()
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "":
                    event.comments += 1
                case "retry":
                    event.retry = int(value)
                case "id":
                    event.id = value
                case "data":
                    assert event.data is None, f"an envelope on more than one line: {block}"
                    event.data = value
                case _:
                    raise AssertionError(f"a field that nobody expects: {line}")
        return event


async def events_of(response: httpx.Response, heard: Callable[[str], None] = lambda text: None) -> AsyncIterator[Event]:
    """Reads no further than it is asked for; `heard` gets all of the text."""
    pending = ""
    async for text in response.aiter_text():
        heard(text)
        pending += text
        while "\n\n" in pending:
            block, _, pending = pending.partition("\n\n")
            yield Event.parse(block)


class EventStream(Receiver):
    """Reads the stream in the background, keeping all of its text."""

    def __init__(self, response: httpx.Response):
        super().__init__()
        self.response = response
        self.text = ""
        self.retry: int | None = None
        self.comments = 0
        self._arrived: asyncio.Queue[Envelope | Exception | None] = asyncio.Queue()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        try:
            async for event in events_of(self.response, self._heard):
                self.comments += event.comments
                self.retry = event.retry if event.retry is not None else self.retry
                self.cursor = event.id if event.id is not None else self.cursor
                if event.data is not None:
                    await self._arrived.put(Envelope(event.data, event.id))
        except Exception as error:
            await self._arrived.put(error)
        finally:
            self._ended.set()
            self._arrived.put_nowait(None)

    def _heard(self, text: str) -> None:
        self.text += text

    async def _next(self) -> Envelope:
        arrived = await self._arrived.get()
        if isinstance(arrived, Envelope):
            return arrived
        self._arrived.put_nowait(None)
        raise arrived or EOFError("the stream has ended")

    async def ended(self, timeout: float = SOON) -> None:
        """The server ends the stream properly."""
        await asyncio.wait_for(self._ended.wait(), timeout)
        while not self._arrived.empty():
            arrived = self._arrived.get_nowait()
            if isinstance(arrived, Exception):
                raise arrived
            if arrived is not None:
                self.early.append(arrived)
        self._arrived.put_nowait(None)


@asynccontextmanager
async def event_stream(
    edge: Edge,
    token: str | None = None,
    channels: str | None = None,
    *,
    headers: dict | None = None,
    http2: bool = False,
    **query,
) -> AsyncIterator[EventStream]:
    """A stream whose status was 200; nothing of it has been received yet."""
    if channels is not None:
        query = {"channels": channels} | query
    headers = {"Accept": "text/event-stream"} | bearer(token) | (headers or {})
    async with (
        edge.http(http2=http2, timeout=httpx.Timeout(10, read=None)) as client,
        client.stream("GET", "/v1/sse", params=query, headers=headers) as response,
    ):
        assert response.status_code == 200, (response.status_code, await response.aread())
        stream = EventStream(response)
        reading = asyncio.create_task(stream.run())
        try:
            yield stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


# ---- Long polling --------------------------------------------------------------------------------------------


class Poll:
    """One answer."""

    def __init__(self, response: httpx.Response):
        assert response.status_code == 200, (response.status_code, response.text)
        assert "no-store" in response.headers["Cache-Control"], response.headers
        assert response.headers["Content-Type"].startswith("application/json"), response.headers
        self.response = response
        self.envelopes = [Envelope(raw) for raw in raw_items(response.text, "messages")]
        self.cursor: str = response.json()["cursor"]

    def of_type(self, type: str) -> list[Envelope]:
        return [envelope for envelope in self.envelopes if envelope.type == type]


class Poller(Receiver):
    def __init__(self, client: httpx.AsyncClient, channels: str, token: str | None, headers: dict | None, query: dict):
        super().__init__()
        self.client = client
        self.channels = channels
        self.headers = bearer(token) | (headers or {})
        self.first = query
        self.cursor = None
        self._pending: deque[Envelope] = deque()

    async def poll(self, **query) -> Poll:
        query = {"channels": self.channels} | query
        return Poll(await self.client.get("/v1/poll", params=query, headers=self.headers))

    async def _next(self) -> Envelope:
        while not self._pending:
            # Once the cursor has moved, what the first request asked for is done.
            answer = await self.poll(**(self.first if self.cursor is None else {"cursor": self.cursor}))
            self.cursor = answer.cursor
            self._pending.extend(answer.envelopes)
        return self._pending.popleft()


@asynccontextmanager
async def poller(
    edge: Edge, token: str | None, channels: str, *, headers: dict | None = None, http2: bool = False, **query
) -> AsyncIterator[Poller]:
    async with edge.http(http2=http2, timeout=70) as client:
        yield Poller(client, channels, token, headers, query)


# ---- Any of them ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def subscribe(
    edge: Edge, transport: str, token: str | None, channels: str, *, headers: dict | None = None, **query
) -> AsyncIterator[Receiver]:
    """A subscriber that has received all its `room_joined`s, which are in `joined`; a poll with a cursor has none."""
    match transport:
        case "ws":
            opened = websocket(edge, token, query={"channels": channels} | query, headers=headers)
        case "sse":
            opened = event_stream(edge, token, channels, headers=headers, **query)
        case "poll":
            opened = poller(edge, token, channels, headers=headers, **query)
    async with opened as receiver:
        if transport == "sse":
            await receiver.expect("connection_established")
        joined = {}
        expected = 0 if transport == "poll" and "cursor" in query else len(channels.split(","))
        replayed = []
        while len(joined) < expected:
            envelope = await receiver.receive()
            if envelope.type == "room_joined":
                joined[envelope.payload["channel"]] = envelope
            else:
                # What one channel replays may come before the next one's room_joined.
                replayed.append(envelope)
        receiver.early.extendleft(reversed(replayed))
        receiver.joined = joined
        yield receiver


async def publish(edge: Edge, token: str, channel: str, *items, client: httpx.AsyncClient | None = None) -> list[dict]:
    """Publishes over HTTP, one after the other, and returns the acks' payloads."""
    if client is None:
        async with edge.http() as client:
            return await publish(edge, token, channel, *items, client=client)
    acks = []
    for item in items:
        answer = await client.post(messages_of(channel), content=json.dumps(item), headers=bearer(token))
        assert answer.status_code == 201, (answer.status_code, answer.text)
        acks.append(answer.json())
    return acks


def messages_of(channel: str) -> str:
    return f"/v1/channels/{encoded(channel)}/messages"


def presence_of(channel: str) -> str:
    return f"/v1/channels/{encoded(channel)}/presence"


def encoded(channel: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", lambda match: f"%{ord(match[0]):02X}", channel)


async def until_served(edge):
    """Until there is room for one more, which has come and gone then."""
    deadline = time.monotonic() + 3
    while True:
        async with raw_websocket(edge, edge.token()) as socket:
            if (await socket.receive()).type == "connection_established":
                return
        assert time.monotonic() < deadline, "no room 3 s after a connection was closed"
        await asyncio.sleep(0.1)
