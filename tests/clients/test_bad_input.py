"""Whatever a client gets wrong is answered, and the connection lives on; ten times in a row is enough."""

import json

import pytest

from refusals import problem
from transports import bearer, messages_of, websocket

NOT_ENVELOPES = [
    "", " ", "{", "}", "null", "true", "7", '"ping"', "[]", '[{"type":"ping"}]', "{}", '{"type":"ping"',
    '{"type":"ping"} x', "{'type':'ping'}", '{"type":7}', '{"type":null}', '{"type":["ping"]}', '{"payload":{}}',
    '{"type":"ping","metadata":7}', '{"type":"ping","metadata":{"correlation_id":7}}',
    '{"type":"ping","metadata":{"message_id":7}}', '{"type":"ping","metadata":{"message_id":""}}',
    '{"type":"ping","metadata":{"message_id":"' + "x" * 65 + '"}}',
    '{"type":"ping","metadata":{"message_id":"a\\nb"}}',
    '{"type":"auth"}', '{"type":"auth","payload":{}}', '{"type":"auth","payload":{"token":7}}',
    "\ufeff" + '{"type":"ping"}', "[" * 10_000, '{"a":' * 3000,
]  # fmt: skip

WRONG_CHANNELS = [None, 7, True, [], {}, "", "x" * 201, "a b", "a,b", "a*", "ä", "a\n", "a#b", "a?b", "a%20b"]

CHANNEL_TYPES = ["join_room", "leave_room", "message", "typing_start", "typing_stop", "presence", "history"]

WRONG_FIELDS = [
    ("join_room", {"cursor": 7}),
    ("join_room", {"recover": 7}),
    ("join_room", {"recover": {}}),
    ("join_room", {"recover": {"epoch": "x"}}),
    ("join_room", {"recover": {"seq": 1}}),
    ("join_room", {"recover": {"epoch": 7, "seq": 1}}),
    ("join_room", {"recover": {"epoch": "x", "seq": -1}}),
    ("join_room", {"recover": {"epoch": "x", "seq": 1.5}}),
    ("join_room", {"recover": {"epoch": "x", "seq": "1"}}),
    ("join_room", {"history": "x"}),
    ("join_room", {"history": -1}),
    ("join_room", {"presence": "yes"}),
    ("join_room", {"presence": 1}),
    ("join_room", {"history": 1, "recover": {"epoch": "x", "seq": 1}}),
    ("join_room", {"cursor": "x", "history": 1}),
    ("message", {}),  # no data
    ("history", {"after": "x"}),
    ("history", {"after": -1}),
    ("history", {"limit": 0}),
    ("history", {"limit": 1001}),
    ("history", {"limit": "x"}),
]


@pytest.mark.parametrize("text", NOT_ENVELOPES, ids=lambda text: repr(text[:50]))
async def test_what_is_no_envelope_is_malformed_and_the_connection_lives_on(edge, text):
    async with websocket(edge, edge.token()) as socket:
        await socket.send_text(text)
        error = await socket.expect("error")
        assert (error.payload["code"], error.payload["reason"]) == (4000, "malformed")
        await socket.alive()


@pytest.mark.parametrize("type", CHANNEL_TYPES)
async def test_a_wrong_channel_is_malformed(edge, type):
    async with websocket(edge, edge.token()) as socket:
        await socket.send_text(json.dumps({"type": type}))
        assert (await socket.expect("error")).payload["reason"] == "malformed"
        for channel in WRONG_CHANNELS:
            refused = await socket.refused(type, {"channel": channel, "data": 1})
            assert (refused["code"], refused["reason"]) == (4000, "malformed"), channel
            await socket.alive()


@pytest.mark.parametrize(("type", "wrong"), WRONG_FIELDS, ids=lambda value: json.dumps(value))
async def test_a_wrong_field_is_malformed_under_its_correlation_id(edge, room, type, wrong):
    async with websocket(edge, edge.token()) as socket:
        refused = await socket.refused(type, {"channel": room} | wrong)
        assert (refused["code"], refused["reason"]) == (4000, "malformed")
        await socket.alive()


async def test_an_unknown_type_is_told_under_its_correlation_id(edge):
    async with websocket(edge, edge.token()) as socket:
        for type in ("nonsense", "PING", "message_ack", "room_joined", "x" * 1000):
            refused = await socket.refused(type)
            assert (refused["code"], refused["reason"]) == (4000, "unknown_type")
            assert len(refused["detail"]) < 200
            await socket.alive()


async def test_unknown_fields_are_ignored(edge, room):
    async with websocket(edge, edge.token()) as socket:
        payload = {"channel": room, "data": 1, "x": {"y": []}}
        text = {"type": "message", "payload": payload, "metadata": {"correlation_id": "c", "z": 1}, "extra": []}
        await socket.send_text(json.dumps(text))
        assert (await socket.expect("message_ack")).correlation_id == "c"


async def test_metadata_and_payload_may_be_missing_or_null(edge):
    async with websocket(edge, edge.token()) as socket:
        for text in ('{"type":"ping"}', '{"type":"ping","payload":null,"metadata":null}', ' \n{"type" : "ping"}\t'):
            await socket.send_text(text)
            await socket.expect("pong")


@pytest.mark.parametrize("frame", [b"", b"\x00", b'{"type":"ping"}', b"\xff" * 100])
async def test_a_binary_frame_is_malformed(edge, frame):
    async with websocket(edge, edge.token()) as socket:
        await socket.connection.send(frame)
        assert (await socket.expect("error")).payload["reason"] == "malformed"
        await socket.alive()


@pytest.mark.parametrize(
    "data", ["[" * 200 + "]" * 200, "1e999", '"\\ud800"', "01", "NaN", "undefined"], ids=lambda data: data[:10]
)
async def test_data_that_would_break_its_readers_is_malformed(edge, room, data):
    async with websocket(edge, edge.token()) as socket, edge.http() as client:
        await socket.join(room)
        await socket.send_text('{"type":"message","payload":{"channel":"%s","data":%s}}' % (room, data))
        assert (await socket.expect("error")).payload["reason"] == "malformed"
        answer = await client.post(messages_of(room), content=data, headers=bearer(edge.token()))
        assert (answer.status_code, problem(answer).reason) == (400, "malformed")
        await socket.alive()
        await socket.nothing(0.1)


async def test_ten_violations_in_a_row_close_the_connection(edge):
    async with websocket(edge, edge.token()) as socket:
        for _ in range(10):
            await socket.send_text("{")
        code, _ = await socket.closed()
        assert code == 4000
        errors = list(socket.early)
        assert len(errors) == 10
        assert {error.payload["reason"] for error in errors} == {"malformed"}


async def test_violations_of_different_kinds_count_together(edge):
    async with websocket(edge, edge.token(channels={})) as socket:
        for _ in range(3):
            await socket.send_text("{")
            await socket.send("nonsense")
            await socket.connection.send(b"binary")
        await socket.send("join_room", {"channel": "chat:forbidden"})
        assert (await socket.closed())[0] == 4000


async def test_a_valid_envelope_in_between_begins_the_count_again(edge):
    async with websocket(edge, edge.token()) as socket:
        for _ in range(3):
            for _ in range(9):
                await socket.send_text("{")
                await socket.expect("error")
            await socket.alive()


@pytest.mark.parametrize("query", [{}, {"channels": ""}, {"channels": "a,,b"}, {"channels": "a b"}, {"channels": "x" * 201},
                                   {"channels": "a", "history": "x"}, {"channels": "a", "history": "-1"},
                                   {"channels": "a", "recover": "nonsense"}, {"channels": "a,b", "recover": "x:1"},
                                   {"channels": "a", "presence": "maybe"}])  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/sse", "/v1/poll"])
async def test_a_wrong_query_is_malformed(edge, path, query):
    async with edge.http() as client, client.stream("GET", path, params=query, headers=bearer(edge.token())) as answer:
        assert answer.status_code == 400
        await answer.aread()
        assert problem(answer).reason == "malformed"


@pytest.mark.parametrize("wait", ["x", "-1", "1s", ""])
async def test_a_wrong_wait_is_malformed(edge, room, wait):
    async with edge.http() as client:
        answer = await client.get("/v1/poll", params={"channels": room, "wait": wait}, headers=bearer(edge.token()))
        assert (answer.status_code, problem(answer).reason) == (400, "malformed")


@pytest.mark.parametrize("name", ["a%20b", "a%2Cb", "%C3%A4", "%FF", "x" * 201, "%00"])
async def test_a_wrong_channel_in_a_path_is_malformed(edge, name):
    async with edge.http() as client:
        for path in (f"/v1/channels/{name}/messages", f"/v1/channels/{name}/presence"):
            answer = await client.get(path, headers=bearer(edge.token()))
            assert (answer.status_code, problem(answer).reason) == (400, "malformed")


async def test_a_cursor_that_is_none_never_breaks_a_connection(edge, room):
    async with websocket(edge, edge.token()) as socket:
        for cursor in ("", "garbage", "AAAA", "A" * 3000, "ä", "-_-_"):
            answer = await socket.ask("join_room", {"channel": room, "cursor": cursor})
            if answer.type == "error":
                assert answer.payload["reason"] == "malformed"
            else:
                assert answer.payload["recovered"] is False
                assert (await socket.expect("gap")).payload["reason"] == "epoch_changed"
            await socket.alive()


@pytest.mark.parametrize("path", ["/v1/sse", "/v1/poll"])
@pytest.mark.parametrize("cursor", ["garbage", "AAAA", "A" * 3000, "-_-_"])
async def test_a_cursor_that_is_none_is_never_the_servers_fault(edge, room, path, cursor):
    async with edge.http() as client:
        query = {"channels": room, "cursor": cursor, "wait": "0"}
        async with client.stream("GET", path, params=query, headers=bearer(edge.token())) as answer:
            assert answer.status_code in (200, 400)
