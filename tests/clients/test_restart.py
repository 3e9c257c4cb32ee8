"""1012: the server says goodbye on every transport, in time, and goes."""

import asyncio
import re
import signal
import time
from contextlib import AsyncExitStack

import httpx
import pytest

from transports import event_stream, poller, publish, websocket


async def exit_code(edge, seconds=10):
    return await asyncio.to_thread(edge.wait, seconds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_every_websocket_is_closed_with_a_hint_of_its_own(start, number):
    edge = start(listen={"drain": "2s"})
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(websocket(edge, edge.token())) for _ in range(20)]
        began = time.monotonic()
        edge.signal(number)
        retries = []
        for socket in sockets:
            code, reason = await socket.closed()
            assert code == 1012
            match = re.fullmatch(r"restart;retry=(\d+)", reason)
            assert match, reason
            retries.append(int(match[1]))
        assert len(set(retries)) > 5, "the hints are spread, or all come back in the same moment"
        assert await exit_code(edge) == 0
        assert time.monotonic() - began < 2 + 2


async def test_who_comes_in_with_the_last_request_is_told_as_well(start):
    """The handshake is under way when the drain begins, and the guest joins nothing."""
    edge = start(listen={"drain": "2s"}, auth={"mode": "optional"})
    tls = edge.certificate.trust
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=tls, server_hostname="localhost")
    handshake = (
        "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    writer.write(handshake[:40])
    await writer.drain()
    await asyncio.sleep(0.3)
    edge.signal()
    await asyncio.sleep(0.2)
    writer.write(handshake[40:])
    rest = await asyncio.wait_for(reader.read(), 6)
    writer.close()
    assert rest.startswith(b"HTTP/1.1 101 "), rest
    assert b"\x03\xf4restart;retry=" in rest, rest
    assert await exit_code(edge) == 0


@pytest.mark.parametrize("http2", [False, True])
async def test_a_stream_is_ended_after_a_hint(start, room, http2):
    edge = start(listen={"drain": "2s"})
    async with event_stream(edge, edge.token(), room, http2=http2) as stream:
        await stream.until("room_joined")
        before = len(stream.text)
        edge.signal()
        await stream.ended()
        assert re.search(r"^retry: ?\d+$", stream.text[before:], re.M), stream.text[before:]
    assert await exit_code(edge) == 0


@pytest.mark.parametrize("http2", [False, True])
async def test_a_poll_is_answered_at_once(start, room, http2):
    edge = start(listen={"drain": "2s"})
    async with poller(edge, edge.token(), room, http2=http2) as polls:
        cursor = (await polls.poll()).cursor
        waiting = asyncio.create_task(polls.poll(cursor=cursor, wait=30))
        await asyncio.sleep(0.3)
        edge.signal()
        answer = await asyncio.wait_for(waiting, 3)
        assert answer.envelopes == []
        assert answer.cursor
    assert await exit_code(edge) == 0


async def test_a_poll_without_news_gets_a_cursor_that_still_works_elsewhere(start, room):
    first = start()
    async with poller(first, first.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        waiting = asyncio.create_task(polls.poll(cursor=cursor, wait=30))
        await asyncio.sleep(0.2)
        first.signal()
        cursor = (await asyncio.wait_for(waiting, 3)).cursor
    second = start()
    async with poller(second, second.token(), room, cursor=cursor) as polls:
        assert (await polls.expect("gap")).payload["reason"] == "epoch_changed"


async def test_what_was_published_before_is_delivered_before_the_goodbye(start, room):
    edge = start()
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        await publish(edge, edge.token("bob"), room, *range(20))
        edge.signal()
        code, _ = await socket.closed()
        assert code == 1012
        assert [m.data for m in socket.early if m.type == "message"] == list(range(20))
    assert await exit_code(edge) == 0


async def test_readiness_goes_off_and_nobody_new_is_let_in(start):
    edge = start(listen={"drain": "3s"})
    async with websocket(edge, edge.token()) as socket:
        # A client that does not answer the goodbye: the drain has somebody to wait for.
        socket.connection.transport.pause_reading()
        edge.signal()
        deadline = time.monotonic() + 2
        while edge.admin("/readyz").status_code != 503:
            assert time.monotonic() < deadline, "still ready 2 s after SIGTERM"
            await asyncio.sleep(0.02)
        assert edge.admin("/livez").status_code == 200
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", edge.port)
    assert await exit_code(edge) == 0


async def test_the_drain_has_an_end_however_stubborn_a_client_is(start):
    edge = start(listen={"drain": "1s"})
    async with stubborn(edge):
        began = time.monotonic()
        edge.signal()
        assert await exit_code(edge) == 0
        assert time.monotonic() - began < 3


async def test_a_second_signal_ends_at_once(start):
    edge = start(listen={"drain": "30s"})
    async with stubborn(edge):
        edge.signal()
        await asyncio.sleep(0.7)
        assert edge.process.poll() is None, "it waits for the request that it has begun to read"
        began = time.monotonic()
        edge.signal()
        await exit_code(edge)
        assert time.monotonic() - began < 1


async def test_with_nobody_there_it_goes_at_once(start):
    edge = start(listen={"drain": "30s"})
    began = time.monotonic()
    edge.signal()
    assert await exit_code(edge) == 0
    assert time.monotonic() - began < 2


async def test_a_request_that_is_under_way_is_answered(start, room):
    edge = start(listen={"drain": "5s"})
    sent = asyncio.Event()

    async def slow_body():
        yield b'"half'
        sent.set()
        await asyncio.sleep(1)
        yield b' a message"'

    async with edge.http() as client:
        headers = {"Authorization": f"Bearer {edge.token()}"}
        request = client.post(f"/v1/channels/{room}/messages", content=slow_body(), headers=headers)
        sending = asyncio.create_task(request)
        await sent.wait()
        await asyncio.sleep(0.2)
        edge.signal()
        assert (await sending).status_code == 201
    assert await exit_code(edge) == 0


def stubborn(edge):
    """Clients that never finish: one that does not answer a close, one in the middle of a request."""
    stack = AsyncExitStack()

    class Stubborn:
        async def __aenter__(self):
            socket = await stack.enter_async_context(websocket(edge, edge.token()))
            socket.connection.transport.pause_reading()
            _, writer = await asyncio.open_connection(
                "127.0.0.1", edge.port, ssl=edge.certificate.trust, server_hostname="localhost"
            )
            head = f"POST /v1/send HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {edge.token()}\r\n"
            writer.write(f"{head}Content-Length: 100\r\n\r\n[".encode())
            await writer.drain()
            stack.callback(writer.transport.abort)
            await asyncio.sleep(0.2)

        async def __aexit__(self, *_):
            try:
                await stack.aclose()
            except (OSError, httpx.HTTPError):
                pass

    return Stubborn()
