"""A client that reads too slowly is told of its gap, or closed with 1013, as its channel says; others notice nothing."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from transports import Receiver, bearer, event_stream, events_of, messages_of, websocket
from wire import Envelope, check_chain

SIZE = 200_000
COUNT = 40  # 8 MB: more than the kernel holds for a client that does not read


@pytest.fixture
def slow_edge(start):
    return start(
        limits={"message_bytes": 300_000, "queue_bytes": 300_000, "write_timeout": "20s"},
        channels__lossy={"history_size": 4, "slow_consumer": "gap"},
        channels__strict={"history_size": 4, "slow_consumer": "close"},
    )


async def flood(edge, channel):
    token = edge.token("backend", role="server")
    async with edge.http() as client:
        for number in range(COUNT):
            body = json.dumps([number, "x" * SIZE])
            answer = await client.post(messages_of(channel), content=body, headers=bearer(token))
            assert answer.status_code == 201, answer.text


def slow_websocket(edge):
    """Reads only as far as it is asked to: what it does not take stays in the kernel, then in the server. Compressed, all of
    a flood would fit into the kernel."""
    return websocket(edge, edge.token(), max_queue=1, max_size=None, ping_interval=None, compression=None)


@asynccontextmanager
async def slow_stream(edge, channel):
    """The same over HTTP. It has joined when this returns."""
    headers = bearer(edge.token()) | {"Accept": "text/event-stream"}
    query = {"channels": channel}
    async with (
        edge.http(timeout=30) as client,
        client.stream("GET", "/v1/sse", params=query, headers=headers) as response,
    ):
        stream = LazyStream(response)
        await stream.until("room_joined")
        yield stream


async def test_a_websocket_is_told_of_its_gap_and_goes_on(slow_edge):
    async with slow_websocket(slow_edge) as slow:
        await slow.join("lossy:a")
        await flood(slow_edge, "lossy:a")
        messages, gaps = await read_until(slow, COUNT - 1)
        check_gaps(messages, gaps)
        await slow.alive()


async def test_a_stream_is_told_of_its_gap_and_goes_on(slow_edge):
    async with slow_stream(slow_edge, "lossy:a") as stream:
        await flood(slow_edge, "lossy:a")
        messages, gaps = await read_until(stream, COUNT - 1)
        check_gaps(messages, gaps)
        assert all(gap.event_id for gap, _ in gaps), "a gap moves the cursor"


async def test_a_websocket_is_closed_where_the_channel_says_so(slow_edge):
    async with slow_websocket(slow_edge) as slow:
        await slow.join("strict:a")
        await flood(slow_edge, "strict:a")
        assert await slow.closed(timeout=20) == (1013, "slow_consumer")
        check_chain([envelope for envelope in slow.early if envelope.type == "message"])
        assert not [envelope for envelope in slow.early if envelope.type == "gap"]


async def test_a_stream_is_ended_where_the_channel_says_so(slow_edge):
    async with slow_stream(slow_edge, "strict:a") as stream:
        await flood(slow_edge, "strict:a")
        received = []
        with pytest.raises(StopAsyncIteration):
            while True:
                received.append(await stream.receive(timeout=20))
        error = received.pop()
        assert (error.type, error.payload["code"], error.payload["reason"]) == ("error", 1013, "slow_consumer")
        check_chain([envelope for envelope in received if envelope.type == "message"])


@pytest.mark.parametrize("channel", ["lossy:a", "strict:a"])
async def test_a_stuck_client_delays_nobody(slow_edge, channel):
    async with slow_websocket(slow_edge) as stuck, event_stream(slow_edge, slow_edge.token("bob"), channel) as quick:
        await stuck.join(channel)
        await quick.until("room_joined")
        flooding = asyncio.create_task(flood(slow_edge, channel))
        messages = await quick.messages(COUNT, timeout=20)
        check_chain(messages)
        assert [message.data[0] for message in messages] == list(range(COUNT))
        await flooding


async def read_until(receiver, last):
    messages, gaps = [], []
    while not messages or messages[-1].data[0] != last:
        envelope = await receiver.receive(timeout=20)
        if envelope.type == "message":
            messages.append(envelope)
        elif envelope.type == "gap":
            gaps.append((envelope, len(messages)))
            assert envelope.payload["reason"] == "slow_consumer"
    return messages, gaps


def check_gaps(messages, gaps):
    """Whole chains, and where one breaks a gap that names the first message after it."""
    assert gaps, "everything arrived: the client was not slow"
    assert len(messages) < COUNT
    begin = 0
    for gap, at in gaps:
        check_chain(messages[begin:at])
        assert messages[at].payload["seq"] == gap.payload["seq"]
        begin = at
    check_chain(messages[begin:])


class LazyStream(Receiver):
    """Reads the stream no sooner than it is asked for the next event."""

    def __init__(self, response):
        super().__init__()
        self.events = events_of(response)

    async def _next(self):
        while True:
            event = await anext(self.events)
            if event.data is not None:
                return Envelope(event.data, event.id)
