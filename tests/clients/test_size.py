"""4005: nothing larger than `limits.message_bytes` (16384 here), and not a byte held of what is."""

import json
import struct

import pytest

from refusals import problem
from transports import bearer, messages_of, websocket

LIMIT = 16384


def envelope(channel, size) -> str:
    """A publish of exactly so many bytes."""
    text = json.dumps({"type": "message", "payload": {"channel": channel, "data": ""}})
    return text.replace('""', f'"{"x" * (size - len(text))}"')


async def is_closed_as_too_large(socket):
    assert await socket.closed() == (4005, "message_too_large")
    errors = [e.payload for e in socket.early if e.type == "error"]
    assert [(e["code"], e["limit"]) for e in errors] == [(4005, "limits.message_bytes")]


async def test_a_message_of_exactly_the_limit_is_taken(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        await socket.send_text(envelope(room, LIMIT))
        await socket.expect("message")


async def test_a_larger_frame_closes(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.send_text(envelope(room, LIMIT + 1))
        await is_closed_as_too_large(socket)


async def test_fragments_count_together(edge, room):
    text = envelope(room, LIMIT + 1)
    async with websocket(edge, edge.token()) as socket:
        await socket.connection.send(text[at : at + 1000] for at in range(0, len(text), 1000))
        await is_closed_as_too_large(socket)


async def test_fragments_up_to_the_limit_are_taken(edge, room):
    text = envelope(room, LIMIT)
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        await socket.connection.send(text[at : at + 1000] for at in range(0, len(text), 1000))
        await socket.expect("message")


@pytest.mark.parametrize("announced", [LIMIT + 1, 2**16, 2**31, 2**62])
async def test_a_header_that_announces_too_much_is_enough(edge, announced):
    async with websocket(edge, edge.token()) as socket:
        # RFC 6455 §5.2: the shortest form of a length.
        length = (
            struct.pack("!BH", 0x80 | 126, announced)
            if announced < 2**16
            else struct.pack("!BQ", 0x80 | 127, announced)
        )
        socket.connection.transport.write(b"\x81" + length + b"mask" + b"only ten b")
        await is_closed_as_too_large(socket)


async def test_a_large_message_of_another_never_closes_a_reader(edge, room):
    async with websocket(edge, edge.token()) as reader, websocket(edge, edge.token("bob")) as writer:
        await reader.join(room)
        await writer.send_text(envelope(room, LIMIT + 1))
        await is_closed_as_too_large(writer)
        await reader.nothing(0.1)
        await reader.alive()


@pytest.mark.parametrize("path", ["/v1/send", messages_of("chat:size")])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("http2", [False, True])
async def test_a_larger_body_is_413(edge, path, chunked, http2):
    body = json.dumps("x" * LIMIT).encode()

    async def chunks():
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    async with edge.http(http2=http2) as client:
        answer = await client.post(path, content=chunks() if chunked else body, headers=bearer(edge.token()))
        refused = problem(answer)
        assert (answer.status_code, refused.code, refused.reason) == (413, 4005, "message_too_large")
        assert refused.payload["limit"] == "limits.message_bytes"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_exactly_the_limit_is_taken(edge, room, chunked):
    body = json.dumps("x" * (LIMIT - 2)).encode()
    assert len(body) == LIMIT

    async def chunks():
        yield body[:5000]
        yield body[5000:]

    async with edge.http() as client:
        answer = await client.post(
            messages_of(room), content=chunks() if chunked else body, headers=bearer(edge.token())
        )
        assert answer.status_code == 201
