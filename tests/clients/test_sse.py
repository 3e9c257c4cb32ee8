"""Server-sent events, to the byte: what a native EventSource and the proxies on its way rely on."""

import asyncio
import json
import re
import time

import pytest

from transports import bearer, event_stream, publish, websocket


async def test_the_head_keeps_proxies_from_buffering(edge, room):
    async with event_stream(edge, edge.token(), room) as stream:
        headers = stream.response.headers
        assert headers["Content-Type"].split(";")[0] == "text/event-stream"
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in headers
        assert "Content-Encoding" not in headers


@pytest.mark.parametrize("http2", [False, True])
async def test_a_stream_is_written_as_the_protocol_says(edge, room, http2):
    other = f"{room}-b"
    async with event_stream(edge, edge.token(), f"{room},{other}", http2=http2) as stream:
        established = await stream.expect("connection_established")
        joined = [await stream.expect("room_joined") for _ in range(2)]
        assert [j.payload["channel"] for j in joined] == [room, other]
        await publish(edge, edge.token("bob"), room, "x")
        message = await stream.expect("message")

        assert re.match(r"retry: ?\d+\n", stream.text), stream.text[:40]
        assert established.event_id is None
        assert all(j.event_id == j.payload["cursor"] for j in joined)
        assert message.event_id and message.event_id != joined[1].event_id
        assert "\r" not in stream.text
        names = set(re.findall(r"^([a-z]+):", stream.text, re.M))
        assert names == {"retry", "data", "id"}, "no event: field, EventSource's onmessage gets all"
        assert stream.response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")


async def test_ids_stand_only_on_what_moves_the_cursor(edge, room):
    async with (
        event_stream(edge, edge.token(), room, presence="1") as stream,
        websocket(edge, edge.token("bob")) as bob,
    ):
        await stream.until("room_joined")
        await bob.join(room)
        assert (await stream.until("presence_update", user_id="bob")).event_id is None
        await bob.send("typing_start", {"channel": room})
        assert (await stream.expect("typing_start")).event_id is None
        await bob.publish(room, 1)
        assert (await stream.until("message")).event_id


async def test_an_id_is_the_same_string_as_a_cursor_everywhere(edge, room):
    """A cursor is opaque, but one position has one string on each transport that names it."""
    async with event_stream(edge, edge.token(), room) as stream:
        joined = await stream.until("room_joined")
        assert joined.event_id == joined.payload["cursor"]
        async with websocket(edge, edge.token()) as socket:
            assert (await socket.join(room, cursor=joined.event_id)).payload["recovered"] is True


async def test_a_gap_has_an_id(edge, room):
    acks = await publish(edge, edge.token("bob"), room, 0)
    async with event_stream(edge, edge.token(), room, recover=f"another:{acks[0]['seq']}") as stream:
        joined = await stream.until("room_joined")
        assert joined.payload["recovered"] is False
        assert (await stream.expect("gap")).event_id
        assert (await stream.expect("message")).data == 0


async def test_a_comment_comes_every_fifteen_seconds(edge, room):
    async with event_stream(edge, edge.token(), room) as stream:
        await stream.until("room_joined")
        began, before = time.monotonic(), stream.comments
        while stream.comments == before:
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 17, "no comment in 17 s"
        assert time.monotonic() - began > 10
        await publish(edge, edge.token("bob"), room, "after the comment")
        assert (await stream.expect("message")).data == "after the comment"


async def test_data_with_line_breaks_stays_one_event(edge, room):
    async with event_stream(edge, edge.token(), room) as stream, edge.http() as client:
        await stream.until("room_joined")
        body = '{\r\n "a" :\n [1,\r 2],\n\n "id: evil\\n\\n": "data: x\\r\\n" }'
        path = f"/v1/channels/{room}/messages"
        answer = await client.post(path, content=body, headers=bearer(edge.token("bob")))
        assert answer.status_code == 201
        assert (await stream.expect("message")).data == json.loads(body)


async def test_an_event_arrives_without_waiting_for_the_next(edge, room):
    async with event_stream(edge, edge.token(), room) as stream:
        await stream.until("room_joined")
        for number in range(5):
            began = time.monotonic()
            await publish(edge, edge.token("bob"), room, number)
            assert (await stream.expect("message")).data == number
            assert time.monotonic() - began < 1


async def test_the_accept_header_does_not_matter(edge, room):
    for accept in ("*/*", "text/html", "text/event-stream"):
        async with event_stream(edge, edge.token(), room, headers={"Accept": accept}) as stream:
            await stream.until("room_joined")


@pytest.mark.parametrize("http2", [False, True])
async def test_a_client_that_goes_away_is_noticed(edge, room, http2):
    async with websocket(edge, edge.token("alice")) as alice:
        await alice.join(room, presence=True)
        async with event_stream(edge, edge.token("bob"), room, http2=http2) as stream:
            await stream.until("room_joined")
            await alice.until("presence_update", user_id="bob", online=True)
        await alice.until("presence_update", user_id="bob", online=False, timeout=6)
