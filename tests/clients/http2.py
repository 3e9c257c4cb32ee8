"""HTTP/2 by the `h2` package, frame by frame: what a stream is told and when, and WebSockets on streams (RFC 8441).

The frames of a WebSocket are those of the `websockets` package; only its handshake and its socket are ours.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from websockets.exceptions import ConnectionClosed
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from edge import Edge
from transports import SOON, SUBPROTOCOL, Socket, bearer

STREAM_WINDOW = 65535  # RFC 9113 §6.9.2


class Stream:
    """One request and its answer."""

    def __init__(self, connection: "Http2", number: int):
        self.connection = connection
        self.number = number
        self.head: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.reads = True  # while it does not, its window is not opened again
        self.received = 0  # bytes
        self.reset: ErrorCodes | None = None
        self.ended = asyncio.Event()  # by END_STREAM or RST_STREAM
        self.data: asyncio.Queue[bytes] = asyncio.Queue()  # an empty one is the end

    async def send(self, data: bytes, end: bool = False) -> None:
        h2 = self.connection.h2
        while data:
            room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size)
            if room == 0:
                self.connection.window_opened.clear()
                await asyncio.wait_for(self.connection.window_opened.wait(), SOON)
                continue
            h2.send_data(self.number, data[:room])
            data = data[room:]
            await self.connection.flush()
        if end:
            h2.end_stream(self.number)
            await self.connection.flush()

    async def cancel(self) -> None:
        self.connection.h2.reset_stream(self.number, ErrorCodes.CANCEL)
        await self.connection.flush()

    async def status(self) -> int:
        return int((await self.headers())[":status"])

    async def headers(self) -> dict[str, str]:
        return await asyncio.wait_for(asyncio.shield(self.head), SOON)

    async def answer(self) -> httpx.Response:
        """The whole of it."""
        headers, body = dict(await self.headers()), b""
        status = int(headers.pop(":status"))
        while chunk := await asyncio.wait_for(self.data.get(), SOON):
            body += chunk
        return httpx.Response(status, headers=headers, content=body)

    async def over(self, timeout: float = SOON) -> ErrorCodes | None:
        """Waits for the end: `None` for END_STREAM, the code of RST_STREAM otherwise."""
        await asyncio.wait_for(self.ended.wait(), timeout)
        return self.reset


class Http2:
    """One connection. Its own window is always open: one stream that is not read never holds up the others."""

    def __init__(self, edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.edge = edge
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.streams: dict[int, Stream] = {}
        self.told = asyncio.Event()  # the server's settings have come
        self.window_opened = asyncio.Event()
        self.goodbye = False  # GOAWAY has come
        self.closed = asyncio.Event()
        self._reader, self._writer = reader, writer

    async def run(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        try:
            while data := await self._reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._hear(event)
                self.told.set()
                await self.flush()
        except ConnectionError:
            pass
        except ProtocolError:
            # For the package a GOAWAY is the end, the PING that comes with a graceful one included.
            if self.h2.state_machine.state is not ConnectionState.CLOSED:
                raise
            self.goodbye = True
        finally:
            for stream in self.streams.values():
                stream.ended.set()
                stream.data.put_nowait(b"")
            self.closed.set()

    def _hear(self, event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        match event:
            case ResponseReceived():
                stream.head.set_result(dict(event.headers))
            case DataReceived():
                if event.data:
                    stream.received += len(event.data)
                    stream.data.put_nowait(event.data)
                size = event.flow_controlled_length
                if stream.reads:
                    self.h2.acknowledge_received_data(size, event.stream_id)
                elif size:
                    self.h2.increment_flow_control_window(size)
            case StreamEnded():
                stream.ended.set()
                stream.data.put_nowait(b"")
            case StreamReset():
                # What an orderly end was before, it stays: the server only stops listening (RFC 9113 §8.1).
                if not stream.ended.is_set():
                    stream.reset = ErrorCodes(event.error_code)
                stream.ended.set()
                stream.data.put_nowait(b"")
            case WindowUpdated():
                self.window_opened.set()
            case ConnectionTerminated():
                self.goodbye = True

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            self._writer.write(data)
            await self._writer.drain()

    @property
    def offers_websockets(self) -> bool:
        return self.h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1

    async def request(self, method: str, path: str | None, *pairs, end: bool = True, **headers: str) -> Stream:
        """Pseudo-headers are `protocol="websocket"` and the like; `None` leaves one out that has a default."""
        pseudo = {"scheme": "https", "authority": self.edge.address, "path": path}
        pseudo |= {name: headers.pop(name) for name in ("scheme", "authority", "protocol") if name in headers}
        fields = [(":method", method)] + [(f":{name}", value) for name, value in pseudo.items() if value is not None]
        fields += [(name.lower().replace("_", "-"), value) for name, value in [*headers.items(), *pairs]]
        number = self.h2.get_next_available_stream_id()
        stream = self.streams[number] = Stream(self, number)
        self.h2.send_headers(number, fields, end_stream=end)
        await self.flush()
        return stream

    async def connect(self, path: str, *pairs, **headers: str) -> Stream:
        """The handshake of RFC 8441 §5."""
        headers = {"protocol": "websocket", "sec_websocket_version": "13"} | headers
        headers = {name: value for name, value in headers.items() if value is not None}
        return await self.request("CONNECT", path, *pairs, end=False, **headers)


class OnStream:
    """A WebSocket on a stream, with as much of `websockets`' connection as tests use."""

    def __init__(self, stream: Stream, *extensions: Extension):
        self.stream = stream
        self.protocol = Protocol(Side.CLIENT, max_size=None)
        self.protocol.extensions = [*extensions]
        self._frames: deque[Frame] = deque()
        self._parts: list[Frame] = []
        self._pings: dict[bytes, asyncio.Future] = {}

    async def recv(self) -> str | bytes:
        while True:
            self._frames += self.protocol.events_received()
            while self._frames:
                if (message := self._assemble(self._frames.popleft())) is not None:
                    return message
            if self.protocol.state is State.CLOSED:
                raise self.protocol.close_exc
            data = await self.stream.data.get()
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            await self._flush()

    def _assemble(self, frame: Frame) -> str | bytes | None:
        if frame.opcode is Opcode.PONG:
            self._pings.pop(bytes(frame.data)).set_result(None)
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None
        self._parts.append(frame)
        if not frame.fin:
            return None
        parts, self._parts = self._parts, []
        message = b"".join(part.data for part in parts)
        return message.decode() if parts[0].opcode is Opcode.TEXT else message

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        await self._flush()

    async def ping(self, data: bytes) -> asyncio.Future:
        """The pong is heard by whoever receives."""
        self.protocol.send_ping(data)
        pong = self._pings[data] = asyncio.get_running_loop().create_future()
        await self._flush()
        return pong

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.protocol.send_close(code, reason)
        await self._flush()
        try:
            while True:
                await asyncio.wait_for(self.recv(), SOON)
        except ConnectionClosed:
            pass

    @property
    def close_code(self) -> int | None:
        return self.protocol.close_code

    @property
    def close_reason(self) -> str | None:
        return self.protocol.close_reason

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            try:
                # An empty one ends the socket.
                await self.stream.send(data, end=not data)
            except ProtocolError:
                # The server has reset the stream already.
                return


@asynccontextmanager
async def http2(edge: Edge) -> AsyncIterator[Http2]:
    """A connection whose server has sent its settings."""
    context = edge.certificate.trust
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=context, server_hostname="localhost")
    connection = Http2(edge, reader, writer)
    running = asyncio.create_task(connection.run())
    try:
        await asyncio.wait_for(connection.told.wait(), SOON)
        yield connection
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        writer.close()


async def raw_websocket(connection: Http2, token: str | None = None, path: str = "/v1/ws", **headers: str) -> Socket:
    """One on a new stream; nothing has been received yet."""
    headers = {"sec_websocket_protocol": SUBPROTOCOL} | bearer(token) | headers
    stream = await connection.connect(path, **headers)
    if await stream.status() != 200:
        answer = await stream.answer()
        raise AssertionError((answer.status_code, answer.text))
    return Socket(OnStream(stream))


async def websocket(connection: Http2, token: str | None = None, path: str = "/v1/ws", **headers: str) -> Socket:
    """One whose first envelope was `connection_established`."""
    socket = await raw_websocket(connection, token, path, **headers)
    socket.established = await socket.expect("connection_established")
    return socket
