"""1013: a server that is full says so at every door, and takes the next one as soon as it can."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from refusals import DOORS, refusal
from transports import bearer, event_stream, raw_websocket, until_served, websocket

ROOM_FOR = 3


@pytest.fixture
def small(start):
    return start(listen={"max_connections": ROOM_FOR})


async def fill(stack, edge):
    return [await stack.enter_async_context(websocket(edge, edge.token())) for _ in range(ROOM_FOR)]


@pytest.mark.parametrize("door", DOORS)
async def test_a_full_server_says_so_and_when_to_come_again(small, door):
    async with AsyncExitStack() as stack:
        sockets = await fill(stack, small)
        refused = await refusal(small, door, small.token())
        assert (refused.code, refused.reason) == (1013, "overloaded")
        assert refused.payload["limit"] == "listen.max_connections"
        assert refused.payload["retry_after_ms"] > 0
        if door != "ws":
            assert int(refused.headers["Retry-After"]) > 0
        for socket in sockets:
            await socket.alive()


async def test_an_event_source_survives_it(small):
    async with AsyncExitStack() as stack:
        await fill(stack, small)
        async with event_stream(small, small.token(), "chat:a") as stream:
            assert (await stream.expect("error")).payload["code"] == 1013
            await stream.ended()
            assert stream.text.startswith("retry:")


async def test_a_refused_http2_connection_can_have_better_luck_later(small):
    async with small.http(http2=True) as client:
        query, headers = {"channels": "chat:a"}, bearer(small.token())
        async with AsyncExitStack() as stack:
            await fill(stack, small)
            assert (await client.get("/v1/poll", params=query, headers=headers)).status_code == 503
        await until_accepted(lambda: client.get("/v1/poll", params=query, headers=headers))


async def test_who_leaves_makes_room(small):
    async with AsyncExitStack() as stack:
        [first, *_] = await fill(stack, small)
        await first.connection.close()
        await until_served(small)


async def test_who_is_refused_and_lingers_takes_nobodys_place(small):
    async with AsyncExitStack() as stack:
        [first, *_] = await fill(stack, small)
        lingering = await stack.enter_async_context(raw_websocket(small, small.token()))
        assert (await lingering.receive()).payload["code"] == 1013
        silent = [await asyncio.open_connection("127.0.0.1", small.port) for _ in range(5)]
        await asyncio.sleep(0.2)
        await first.connection.close()
        await until_served(small)
        for _, writer in silent:
            writer.close()


async def until_accepted(request):
    deadline = time.monotonic() + 3
    while (await request()).status_code != 200:
        assert time.monotonic() < deadline, "still refused 3 s after all others were closed"
        await asyncio.sleep(0.2)
