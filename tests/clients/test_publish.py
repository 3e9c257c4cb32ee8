"""Sending: acks, answers, idempotence, and the same from any transport."""

import pytest

from refusals import problem
from transports import bearer, messages_of, publish, websocket


async def send(client, token, body, **headers):
    return await client.post("/v1/send", json=body, headers=bearer(token) | headers)


def message(channel, data=1, **metadata):
    return {"type": "message", "payload": {"channel": channel, "data": data}, "metadata": metadata}


# ---- On a WebSocket ----


async def test_an_ack_tells_the_position_and_repeats_the_correlation_id(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        ack = await socket.ask("message", {"channel": room, "data": 1}, correlation_id="c 1")
        assert (ack.type, ack.correlation_id) == ("message_ack", "c 1")
        stored = await socket.expect("message")
        position = {name: stored.payload[name] for name in ("channel", "epoch", "seq")}
        assert ack.payload == position | {"duplicate": False}


async def test_without_a_correlation_id_a_message_has_no_ack(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.send("message", {"channel": room, "data": 1})
        await socket.alive()
        await socket.nothing()


async def test_without_a_correlation_id_a_refused_message_is_told_nevertheless(edge):
    async with websocket(edge, edge.token(channels={"send": []})) as socket:
        await socket.send("message", {"channel": "chat:x", "data": 1})
        error = await socket.expect("error")
        assert (error.payload["reason"], error.correlation_id) == ("forbidden", None)


async def test_a_duplicate_is_acknowledged_with_the_first_ones_seq(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        first = await socket.publish(room, "first", message_id="m1")
        second = await socket.publish(room, "second", message_id="m1")
        assert second.payload == first.payload | {"duplicate": True}
        assert (await socket.expect("message")).data == "first"
        await socket.nothing(0.2)


async def test_a_message_id_holds_over_connections_and_transports(edge, room):
    token = edge.token()
    async with websocket(edge, token) as socket:
        first = await socket.publish(room, 1, message_id="m1")
    async with edge.http() as client:
        answers = (await send(client, token, [message(room, 1, message_id="m1", correlation_id="c")])).json()
        assert answers[0]["payload"] == first.payload | {"duplicate": True}
        again = await client.post(messages_of(room), json=1, headers=bearer(token) | {"Idempotency-Key": "m1"})
        assert again.json() == first.payload | {"duplicate": True}


async def test_a_message_id_counts_in_one_channel_only(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.publish(room, 1, message_id="m1")
        other = await socket.publish(f"{room}-other", 1, message_id="m1")
        assert other.payload["duplicate"] is False


async def test_nobody_swallows_anothers_message_by_using_its_id(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob")) as bob:
        await alice.publish(room, 1, message_id="m1")
        assert (await bob.publish(room, 2, message_id="m1")).payload["duplicate"] is False


async def test_ping_is_answered_with_and_without_a_correlation_id(edge):
    async with websocket(edge, edge.token()) as socket:
        await socket.send("ping")
        assert (await socket.expect("pong")).correlation_id is None
        assert (await socket.ask("ping", correlation_id="c")).type == "pong"
        await socket.send_text('{"type":"ping"}')
        await socket.expect("pong")


# ---- POST /v1/send ----


async def test_send_answers_one_envelope_with_an_array_of_one(edge, room):
    async with edge.http() as client, websocket(edge, edge.token("alice")) as alice:
        await alice.join(room)
        answer = await send(client, edge.token("bob"), message(room, "x", correlation_id="c"))
        assert answer.status_code == 200
        [ack] = answer.json()
        stored = await alice.expect("message")
        assert (ack["type"], ack["metadata"]["correlation_id"]) == ("message_ack", "c")
        assert ack["payload"]["seq"] == stored.payload["seq"]
        assert (stored.data, stored.payload["sender_id"]) == ("x", "bob")


async def test_send_takes_an_array_and_answers_each_in_order(edge, room):
    envelopes = [
        message(room, 1, correlation_id="c1"),
        {"type": "nonsense", "metadata": {"correlation_id": "c2"}},
        {"type": "ping", "metadata": {"correlation_id": "c3"}},
        {"type": "history", "payload": {"channel": room}, "metadata": {"correlation_id": "c4"}},
        {"type": "presence", "payload": {"channel": room}, "metadata": {"correlation_id": "c5"}},
        message(room, 2, correlation_id="c6"),
    ]
    async with edge.http() as client:
        answer = await send(client, edge.token(), envelopes)
        assert answer.status_code == 200
        answers = answer.json()
    assert [a["type"] for a in answers] == [
        "message_ack", "error", "pong", "history_page", "presence_state", "message_ack",
    ]  # fmt: skip
    assert [a["metadata"]["correlation_id"] for a in answers] == ["c1", "c2", "c3", "c4", "c5", "c6"]
    assert answers[1]["payload"]["reason"] == "unknown_type"
    assert [m["payload"]["data"] for m in answers[3]["payload"]["messages"]] == [1]
    assert answers[5]["payload"]["seq"] > answers[0]["payload"]["seq"]


async def test_send_stores_a_message_that_asks_for_no_answer(edge, room):
    async with edge.http() as client, websocket(edge, edge.token()) as socket:
        await socket.join(room)
        assert (await send(client, edge.token("bob"), message(room, "quiet"))).status_code == 200
        assert (await socket.expect("message")).data == "quiet"


async def test_send_has_no_answer_for_typing(edge, room):
    async with edge.http() as client:
        answer = await send(client, edge.token(), [{"type": "typing_start", "payload": {"channel": room}}])
        assert (answer.status_code, answer.json()) == (200, [])


async def test_an_empty_array_has_no_answers(edge):
    async with edge.http() as client:
        answer = await send(client, edge.token(), [])
        assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize("type", ["join_room", "leave_room", "auth"])
async def test_what_only_a_connection_can_do_is_refused_without_one(edge, room, type):
    async with edge.http() as client:
        payload = {"channel": room, "token": "x"}
        [answer] = (await send(client, edge.token(), [{"type": type, "payload": payload}])).json()
        assert answer["type"] == "error"
        assert answer["payload"]["code"] in (4000, 4002)


@pytest.mark.parametrize("body", [b"", b"{", b"7", b"null", b'"x"', b"[7]x", b"\xff"])
async def test_a_body_that_is_no_envelope_is_malformed(edge, body):
    async with edge.http() as client:
        answer = await client.post("/v1/send", content=body, headers=bearer(edge.token()))
        assert (answer.status_code, problem(answer).reason) == (400, "malformed")


async def test_one_refused_envelope_gives_the_whole_answer_its_status(edge, room):
    async with edge.http() as client:
        answer = await send(client, edge.token(channels={}), message(room, correlation_id="c"))
        assert (answer.status_code, problem(answer).reason) == (403, "forbidden")
        answer = await send(client, edge.token(), {"type": "nonsense"})
        assert (answer.status_code, problem(answer).reason) == (400, "unknown_type")
        answer = await send(client, edge.token(), {"type": "message", "payload": {"channel": 7}})
        assert (answer.status_code, problem(answer).reason) == (400, "malformed")


async def test_an_idempotency_key_stands_for_a_missing_message_id(edge, room):
    async with edge.http() as client, websocket(edge, edge.token()) as socket:
        await socket.join(room)
        key = {"Idempotency-Key": "key-1"}
        [first] = (await send(client, edge.token(), message(room, 1, correlation_id="c"), **key)).json()
        [second] = (await send(client, edge.token(), message(room, 2, correlation_id="c"), **key)).json()
        assert second["payload"] == first["payload"] | {"duplicate": True}
        assert (await socket.expect("message")).metadata["message_id"] == "key-1"
        own = message(room, 3, correlation_id="c", message_id="own")
        [third] = (await send(client, edge.token(), own, **key)).json()
        assert third["payload"]["duplicate"] is False


# ---- POST /v1/channels/{channel}/messages ----


async def test_a_posted_body_is_published_as_data(edge, room):
    async with edge.http() as client, websocket(edge, edge.token("alice")) as alice:
        await alice.join(room)
        answer = await client.post(messages_of(room), json={"a": [1]}, headers=bearer(edge.token("bob")))
        stored = await alice.expect("message")
        assert answer.status_code == 201
        position = {name: stored.payload[name] for name in ("channel", "epoch", "seq")}
        assert answer.json() == position | {"duplicate": False}
        assert (stored.data, stored.payload["sender_id"]) == ({"a": [1]}, "bob")


async def test_publishing_twice_with_one_idempotency_key_stores_once(edge, room):
    async with edge.http() as client:
        headers = bearer(edge.token()) | {"Idempotency-Key": "k"}
        first = (await client.post(messages_of(room), json=1, headers=headers)).json()
        answer = await client.post(messages_of(room), json=1, headers=headers)
        assert answer.is_success
        assert answer.json() == first | {"duplicate": True}
        history = (await client.get(messages_of(room), headers=headers)).json()
        assert len(history["messages"]) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"no JSON", b"1 2", b"\xff\xfe", b"'x'"])
async def test_a_posted_body_that_is_no_json_is_malformed(edge, room, body):
    async with edge.http() as client:
        answer = await client.post(messages_of(room), content=body, headers=bearer(edge.token()))
        assert (answer.status_code, problem(answer).reason) == (400, "malformed")


@pytest.mark.parametrize("key", ["", "x" * 65, "ä".encode()])
async def test_an_idempotency_key_is_1_to_64_printable_characters(edge, room, key):
    async with edge.http() as client:
        headers = bearer(edge.token()) | {"Idempotency-Key": key}
        answer = await client.post(messages_of(room), json=1, headers=headers)
        assert (answer.status_code, problem(answer).reason) == (400, "malformed")


async def test_a_channel_may_be_written_plainly_in_the_path(edge, room):
    async with edge.http() as client:
        answer = await client.post(f"/v1/channels/{room}/messages", json=1, headers=bearer(edge.token()))
        assert (answer.status_code, answer.json()["channel"]) == (201, room)
        [ack] = await publish(edge, edge.token(), room, 2)
        assert ack["channel"] == room
