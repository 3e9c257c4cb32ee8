"""WebSockets on streams of HTTP/2 connections (RFC 8441): the same sessions, and the TCP connection outlives them."""

import asyncio
import re
import time

import pytest
from h2.errors import ErrorCodes
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension

from edge import APP
from http2 import STREAM_WINDOW, OnStream, http2, raw_websocket, websocket
from refusals import Refusal, problem
from transports import Socket, bearer, messages_of, publish
from transports import websocket as websocket_over_http1
from wire import check_chain

KEY = {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ=="}


@pytest.fixture
async def connection(edge):
    async with http2(edge) as connection:
        yield connection


async def alive(connection) -> None:
    """The TCP connection is, for other requests."""
    assert await (await connection.request("GET", "/v1/nothing")).status() == 404
    assert not connection.goodbye and not connection.closed.is_set()


async def refusal_of(stream) -> Refusal:
    return problem(await stream.answer())


def counter(edge, sample: str) -> int:
    """The value of exactly that line."""
    lines = edge.admin("/metrics").text.splitlines()
    return sum(int(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample)


def closed(edge, code: int, reason: str) -> int:
    return counter(edge, f'tidegate_closed_total{{transport="websocket",code="{code}",reason="{reason}"}}')


async def eventually(count, expected) -> None:
    deadline = time.monotonic() + 5
    while count() != expected:
        assert time.monotonic() < deadline, f"{count()}, not {expected}"
        await asyncio.sleep(0.05)


# ---- The handshake ----


async def test_it_is_offered_and_answered_as_rfc_8441_says(connection, edge):
    assert connection.offers_websockets, "§3"
    socket = await websocket(connection, edge.token("alice"))
    headers = await socket.connection.stream.headers()
    assert (headers[":status"], headers["sec-websocket-protocol"]) == ("200", "tidegate.v1.json")
    assert not {"sec-websocket-accept", "upgrade", "connection", "content-length"} & headers.keys(), "§5"
    assert socket.established.payload["user_id"] == "alice"


async def test_without_an_offer_no_subprotocol_is_chosen(connection, edge):
    stream = await connection.connect("/v1/ws", **bearer(edge.token()))
    assert await stream.status() == 200
    assert "sec-websocket-protocol" not in await stream.headers()


async def test_another_protocol_is_501(connection, edge):
    """RFC 9220 §3."""
    for protocol in ("connect-udp", "websocket2"):
        stream = await connection.connect("/v1/ws", protocol=protocol, **bearer(edge.token()))
        assert (await stream.status(), (await refusal_of(stream)).reason) == (501, "not_implemented")
    await alive(connection)


async def test_connect_without_a_protocol_is_501(connection, edge):
    """RFC 9113 §8.5: a tunnel, which this is not the proxy for."""
    stream = await connection.request("CONNECT", None, scheme=None, authority="example.com:443", end=False)
    assert (await stream.status(), (await refusal_of(stream)).reason) == (501, "not_implemented")


@pytest.mark.parametrize("version", [None, "8", "13, 8"])
async def test_another_websocket_version_is_told_the_right_one(connection, edge, version):
    stream = await connection.connect("/v1/ws", sec_websocket_version=version, **bearer(edge.token()))
    assert (await refusal_of(stream)).reason == "malformed"
    headers = await stream.headers()
    assert (headers[":status"], headers["sec-websocket-version"]) == ("400", "13")


@pytest.mark.parametrize(("path", "status"), [("/v1/sse?channels=a", 405), ("/v1/send", 405), ("/v1/nothing", 404)])
async def test_only_websockets_are_connected_to(connection, edge, path, status):
    stream = await connection.connect(path, **bearer(edge.token()))
    assert (await refusal_of(stream)).payload["status"] == status


async def test_a_get_is_told_how_it_is_done(connection, edge):
    """Not 426, whose Upgrade HTTP/2 does not know (RFC 9113 §8.6)."""
    stream = await connection.request("GET", "/v1/ws", **bearer(edge.token()))
    assert "CONNECT" in (await refusal_of(stream)).payload["detail"]
    headers = await stream.headers()
    assert (headers[":status"], headers["allow"]) == ("405", "CONNECT, OPTIONS")
    options = await connection.request("OPTIONS", "/v1/ws")
    assert (await options.status(), (await options.headers())["allow"]) == (204, "CONNECT, OPTIONS")


async def test_a_key_is_not_needed_and_does_no_harm(connection, edge):
    await (await websocket(connection, edge.token(), **KEY)).alive()


# ---- Who may ----


async def refused(connection, *args, **headers) -> tuple[int, str]:
    """Let in, told, and closed with the same code: a page sees no more."""
    socket = await raw_websocket(connection, *args, **headers)
    code, reason = await socket.closed()
    assert [envelope.type for envelope in socket.early] == ["error"]
    assert (socket.early[0].payload["code"], socket.early[0].payload["reason"]) == (code, reason)
    assert await socket.connection.stream.over() is None
    return code, reason


async def test_refusals_are_told_over_the_websocket(connection, edge):
    assert await refused(connection, edge.token(ttl=-1)) == (4002, "authentication_failed")
    evil = {"origin": "https://evil.example.com"}
    assert await refused(connection, edge.token(), **evil) == (4003, "origin_not_allowed")
    await (await websocket(connection, edge.token(), origin=APP)).alive()
    await (await websocket(connection, edge.token(), origin=f"https://{edge.address}")).alive()


async def test_who_brings_no_token_has_a_moment(connection):
    socket = await websocket(connection)
    assert socket.established.payload["user_id"] is None
    assert await socket.closed() == (4001, "authentication_required")
    await alive(connection)


async def test_tokens_come_in_every_way(connection, edge):
    ticket = await connection.request("POST", "/v1/tickets", **bearer(edge.token("by-ticket")))
    ticket = edge.remember((await ticket.answer()).json()["ticket"])
    offer = f"tidegate.v1.json, tidegate.bearer.{edge.token('by-offer')}"
    ways = {
        "by-ticket": {"path": f"/v1/ws?ticket={ticket}"},
        "by-query": {"path": f"/v1/ws?token={edge.token('by-query')}"},
        "by-offer": {"sec_websocket_protocol": offer},
    }
    for user, way in ways.items():
        socket = await websocket(connection, **way)
        assert socket.established.payload["user_id"] == user
        assert (await socket.connection.stream.headers())["sec-websocket-protocol"] == "tidegate.v1.json"
    assert (await refused(connection, path=f"/v1/ws?ticket={ticket}"))[0] == 4002
    # RFC 9113 §8.2.3: a browser sends each cookie in a field of its own.
    crumbs = [("cookie", "theme=dark"), ("cookie", f"__Host-tidegate={edge.token('by-cookie')}"), ("origin", APP)]
    stream = await connection.connect("/v1/ws", *crumbs)
    assert await stream.status() == 200
    socket = Socket(OnStream(stream))
    assert (await socket.expect("connection_established")).payload["user_id"] == "by-cookie"


# ---- A session ----


async def test_two_sessions_and_a_stream_of_events_on_one_connection(connection, edge, room):
    active = "websocket_connections_active"
    before = counter(edge, active)
    alice, bob = [await websocket(connection, edge.token(name)) for name in ("alice", "bob")]
    assert alice.established.payload["client_id"] != bob.established.payload["client_id"]
    events = await connection.request("GET", f"/v1/sse?channels={room}", **bearer(edge.token("carol")))
    assert await events.status() == 200
    for socket in (alice, bob):
        await socket.join(room, presence=True)
    assert counter(edge, active) == before + 2

    await alice.publish(room, "from alice")
    await bob.publish(room, "from bob")
    seen = [await socket.until("message", data="from bob") for socket in (alice, bob)]
    text = await text_until(events, "from bob")
    events_of_bob = [line.removeprefix("data: ") for line in text.splitlines() if "from bob" in line]
    assert events_of_bob == [seen[0].raw], "byte for byte the same"
    assert seen[0].raw == seen[1].raw

    # One session goes; nobody else notices, apart from who is told so.
    await bob.connection.close(4321, "bye")
    assert bob.connection.close_code == 4321
    assert await bob.connection.stream.over() is None, "END_STREAM (§5)"
    await alice.until("presence_update", user_id="bob", online=False)
    await publish(edge, edge.token("dave"), room, "later")
    assert (await alice.until("message", data="later")).raw in await text_until(events, "later")
    await alice.alive()


async def text_until(stream, word: str) -> str:
    text = ""
    while word not in text:
        text += (await asyncio.wait_for(stream.data.get(), 5)).decode()
    return text


async def test_the_query_joins_and_history_follows(connection, edge, room):
    await publish(edge, edge.token(), room, *range(5))
    socket = await websocket(connection, edge.token(), f"/v1/ws?channels={room}&history=3")
    await socket.expect("room_joined")
    messages = await socket.messages(3)
    assert [message.data for message in messages] == [2, 3, 4]
    check_chain(messages)


async def test_a_cursor_from_http1_goes_on_here(connection, edge, room):
    async with websocket_over_http1(edge, edge.token()) as first:
        await first.join(room)
        cursor = first.cursor
    await publish(edge, edge.token(), room, *range(10))
    socket = await websocket(connection, edge.token())
    await socket.join(room, cursor=cursor)
    assert [message.data for message in await socket.messages(10)] == list(range(10))


async def test_pings_are_answered_and_the_code_of_a_close_repeated(connection, edge):
    socket = await websocket(connection, edge.token())
    pong = await socket.connection.ping(b"are you there?")
    await socket.alive()
    assert pong.done()
    await socket.connection.close(1000)
    assert socket.connection.close_code == 1000
    await alive(connection)


async def test_what_breaks_rfc_6455_is_closed_with_its_code(connection, edge):
    not_utf8 = Frame(Opcode.TEXT, b"\xff").serialize(mask=True)
    for frame, code in [(b"\x81\x01x", 1002), (b"\x83\x80mask", 1002), (not_utf8, 1007)]:
        socket = await websocket(connection, edge.token())
        await socket.connection.stream.send(frame)
        assert (await socket.closed())[0] == code
        assert await socket.connection.stream.over() is None
    await alive(connection)


async def test_messages_larger_than_a_window_pass_both_ways(start, room):
    edge = start(limits={"message_bytes": 600_000})
    async with http2(edge) as connection:
        socket = await websocket(connection, edge.token())
        await socket.join(room)
        data = "x" * (8 * STREAM_WINDOW)
        ack = await socket.publish(room, data)
        assert ack.payload["duplicate"] is False
        assert (await socket.until("message")).data == data


async def test_messages_are_compressed_as_over_http1(connection, edge, room):
    """RFC 8441 §5: extensions are agreed on by the same header."""
    offer = ClientPerMessageDeflateFactory()
    offered = build_extension([(offer.name, offer.get_request_params())])
    stream = await connection.connect("/v1/ws", sec_websocket_extensions=offered, **bearer(edge.token()))
    [(name, agreed)] = parse_extension((await stream.headers())["sec-websocket-extensions"])
    assert name == "permessage-deflate"
    socket = Socket(OnStream(stream, offer.process_response_params(agreed, [])))
    await socket.expect("connection_established")
    await socket.join(room)
    before, data = stream.received, "tide and time wait for nobody; " * 300
    await socket.publish(room, data)
    assert (await socket.until("message")).data == data
    assert stream.received - before < len(data) / 4


async def test_what_is_no_list_of_extensions_is_400(connection, edge):
    stream = await connection.connect("/v1/ws", sec_websocket_extensions="=;,", **bearer(edge.token()))
    assert (await stream.status(), (await refusal_of(stream)).reason) == (400, "malformed")
    await alive(connection)


async def test_a_message_too_large_is_4005(connection, edge, room):
    socket = await websocket(connection, edge.token())
    await socket.send("message", {"channel": room, "data": "x" * 16384})
    assert await socket.closed() == (4005, "message_too_large")
    await alive(connection)


async def test_echo_is_there_as_well(start):
    edge = start(conformance={"echo": True})
    async with http2(edge) as connection:
        stream = await connection.connect("/echo", **bearer(edge.token()))
        assert await stream.status() == 200
        socket = OnStream(stream)
        for message in ("text", b"binary", "", "ü" * 8_000):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), 5) == message
        await socket.close(3000, "enough")
        assert (socket.close_code, await stream.over()) == (3000, None)
        await alive(connection)


# ---- How it ends ----


@pytest.mark.parametrize("how", ["RST_STREAM", "END_STREAM", "TCP"])
async def test_who_goes_without_a_word_is_gone(start, room, how):
    edge = start()
    async with websocket_over_http1(edge, edge.token("alice")) as alice:
        await alice.join(room, presence=True)
        async with http2(edge) as connection:
            bob, carol = [await websocket(connection, edge.token(name)) for name in ("bob", "carol")]
            for socket in (bob, carol):
                await socket.join(room)
            await alice.until("presence_update", user_id="carol", online=True)
            stream = bob.connection.stream
            if how == "RST_STREAM":
                await stream.cancel()
            elif how == "END_STREAM":
                await stream.send(b"", end=True)
                assert await stream.over() is None
            else:
                await carol.connection.close()
        await alice.until("presence_update", user_id="bob", online=False, timeout=3 + 3)
        await eventually(lambda: closed(edge, 1006, "lost"), 1 if how == "TCP" else 2)
        await eventually(lambda: counter(edge, "websocket_connections_active"), 1)
        await eventually(lambda: counter(edge, "tidegate_tcp_connections_active"), 1)


async def test_a_stream_that_ends_leaves_the_others(edge, room):
    async with http2(edge) as connection:
        bob, carol = [await websocket(connection, edge.token(name)) for name in ("bob", "carol")]
        await carol.join(room)
        await bob.connection.stream.cancel()
        await publish(edge, edge.token(), room, "still here")
        await carol.until("message", data="still here")


async def test_who_answers_no_ping_is_gone_and_the_connection_stays(start, room):
    edge = start(heartbeat={"interval": "1s", "timeout": "500ms"})
    async with http2(edge) as connection:
        # Whose frames are read answers pings.
        quiet, lively = [await websocket(connection, edge.token(name)) for name in ("quiet", "lively")]
        reading = asyncio.create_task(lively.until("message", timeout=30))
        await quiet.connection.stream.over(timeout=5)
        assert closed(edge, 1006, "dead_peer") == 1
        await asyncio.sleep(2)
        assert not reading.done()
        reading.cancel()
        await alive(connection)


async def test_who_does_not_read_is_cut_off_and_costs_nobody_else(start):
    """Its window stays closed: after `limits.write_timeout` its stream is reset, and only that."""
    channel, size = "chat:flood", 100_000
    edge = start(
        limits={"message_bytes": 200_000, "queue_bytes": 200_000, "write_timeout": "2s"},
        channels__default={"history_size": 8, "presence": True},
    )
    async with http2(edge) as connection:
        stuck, lively = [await websocket(connection, edge.token(name)) for name in ("stuck", "lively")]
        for socket in (stuck, lively):
            await socket.join(channel)
        stream = stuck.connection.stream
        stream.reads, before = False, stream.received
        began = time.monotonic()
        for number in range(20):
            await publish(edge, edge.token(), channel, [number, "x" * size])
            assert (await lively.until("message")).data[0] == number
        assert await stream.over(timeout=2 + 5) is ErrorCodes.CANCEL, "§5: as a TCP connection's RST"
        assert time.monotonic() - began > 2
        assert closed(edge, 1006, "write_timeout") == 1
        assert stream.received - before <= STREAM_WINDOW
        await lively.alive()
        await asyncio.sleep(3.5)
        state = await lively.ask("presence", {"channel": channel})
        assert [user["user_id"] for user in state.payload["users"]] == ["lively"]


async def test_who_reads_late_is_told_of_its_gap(start):
    channel, size = "lossy:late", 100_000
    edge = start(
        limits={"message_bytes": 200_000, "queue_bytes": 200_000, "write_timeout": "20s"},
        channels__lossy={"history_size": 4, "slow_consumer": "gap"},
    )
    async with http2(edge) as connection:
        late = await websocket(connection, edge.token())
        await late.join(channel)
        stream = late.connection.stream
        stream.reads, before = False, stream.received
        await publish(edge, edge.token(), channel, *([number, "x" * size] for number in range(30)))
        # Now it reads: what has come, and what comes.
        stream.reads = True
        connection.h2.increment_flow_control_window(stream.received - before, stream.number)
        await connection.flush()
        seen = []
        while not seen or seen[-1].payload.get("data", [0])[0] != 29:
            seen.append(await late.receive())
        gaps = [envelope for envelope in seen if envelope.type == "gap"]
        assert gaps and {gap.payload["reason"] for gap in gaps} == {"slow_consumer"}
        await late.alive()


async def test_a_session_keeps_its_connection_from_being_idle(start):
    edge = start(listen={"idle_timeout": "1s"})
    async with http2(edge) as connection:
        socket = await websocket(connection, edge.token())
        await asyncio.sleep(3)
        await socket.alive()
        assert not connection.goodbye
        await socket.connection.close()
        await asyncio.wait_for(connection.closed.wait(), 5)
        assert connection.goodbye


async def test_a_drain_tells_every_session_before_the_connection_goes(start):
    edge = start(listen={"drain": "2s"})
    async with http2(edge) as connection:
        sockets = [await websocket(connection, edge.token()) for _ in range(10)]
        began = time.monotonic()
        edge.signal()
        ends = await asyncio.gather(*(end_of(connection, socket) for socket in sockets))
        assert {code for (code, _), _, _ in ends} == {1012}
        assert len({reason for (_, reason), _, _ in ends}) > 3, "the hints are spread"
        assert all(re.fullmatch(r"restart;retry=\d+", reason) for (_, reason), _, _ in ends)
        assert not any(goodbye for _, goodbye, _ in ends), "no GOAWAY while a session lives"
        assert max(at for _, _, at in ends) - min(at for _, _, at in ends) > 0.1, "so are the ends"
        await asyncio.wait_for(connection.closed.wait(), 5)
        assert connection.goodbye
        assert await asyncio.to_thread(edge.wait, 10) == 0
        assert time.monotonic() - began < 2 + 2


async def test_the_drain_has_an_end_however_stubborn_a_client_is(start):
    channel = "chat:flood"
    # A drain waits for a write that is stuck, as everything does.
    limits = {"message_bytes": 200_000, "queue_bytes": 200_000, "write_timeout": "2s"}
    edge = start(listen={"drain": "1s"}, limits=limits)
    async with http2(edge) as connection:
        socket = await websocket(connection, edge.token())
        await socket.join(channel)
        socket.connection.stream.reads = False
        await publish(edge, edge.token(), channel, *(["x" * 100_000] * 5))
        edge.signal()
        began = time.monotonic()
        assert await asyncio.to_thread(edge.wait, 10) == 0
        assert time.monotonic() - began < 1 + 3 + 1
    assert not any("cut off" in line for line in edge.log)


async def end_of(connection, socket):
    end = await socket.closed()
    return end, connection.goodbye, time.monotonic()


async def test_what_comes_during_a_drain_is_told_to_go_elsewhere(start, room):
    edge = start(listen={"drain": "4s"})
    async with http2(edge) as connection:
        sockets = [await websocket(connection, edge.token()) for _ in range(8)]
        edge.signal()
        await asyncio.sleep(0.3)
        stream = await connection.connect("/v1/ws", **bearer(edge.token()))
        assert (await stream.status(), (await refusal_of(stream)).code) == (503, 1012)
        await asyncio.gather(*(socket.closed() for socket in sockets))


# ---- Quotas ----


async def test_each_session_counts_as_a_connection_of_its_address(start):
    edge = start(quota={"connections_per_ip": 3})
    async with http2(edge) as connection:
        # The TCP connection is the first of the three.
        first, second = [await websocket(connection, edge.token()) for _ in range(2)]
        assert await refused(connection, edge.token()) == (4004, "rate_limited")
        await first.connection.close()
        deadline = time.monotonic() + 3
        while True:
            socket = await raw_websocket(connection, edge.token())
            if (await socket.receive()).type == "connection_established":
                break
            assert time.monotonic() < deadline, "no room 3 s after a session ended"
            await asyncio.sleep(0.1)
        await second.alive()
        # An ordinary request takes no place.
        answer = await connection.request("GET", messages_of("chat:a"), **bearer(edge.token()))
        assert await answer.status() == 200


async def test_far_above_its_quota_nobody_is_told_over_a_websocket(start):
    edge = start(quota={"connections_per_ip": 2})
    async with http2(edge) as connection:
        await websocket(connection, edge.token())
        # Those who are told so hold a place until they have answered the close.
        told = [await raw_websocket(connection, edge.token()) for _ in range(2)]
        stream = await connection.connect("/v1/ws", **bearer(edge.token()))
        assert await stream.status() == 429
        assert (await refusal_of(stream)).payload["limit"] == "quota.connections_per_ip"
        for socket in told:
            assert (await socket.closed())[0] == 4004


async def test_sessions_that_begin_too_fast_are_told_so(start):
    edge = start(quota={"connects_per_ip_per_minute": 4})
    async with http2(edge) as connection:
        for _ in range(3):
            socket = await websocket(connection, edge.token())
            await socket.connection.close()
        socket = await raw_websocket(connection, edge.token())
        assert await socket.closed() == (4004, "rate_limited")
        assert socket.early[0].payload["limit"] == "quota.connects_per_ip_per_minute"


async def test_each_session_takes_a_place_of_the_node(start):
    edge = start(listen={"max_connections": 3})
    async with http2(edge) as connection:
        first, _ = [await websocket(connection, edge.token()) for _ in range(2)]
        assert await refused(connection, edge.token()) == (1013, "overloaded")
        await first.connection.close()
        await asyncio.sleep(0.5)
        await (await websocket(connection, edge.token())).alive()
