"""The envelope is the same on every transport, byte for byte, and proves by itself that nothing is missing."""

import asyncio
import json
import uuid
from contextlib import AsyncExitStack

import pytest

from transports import TRANSPORTS, bearer, messages_of, poller, publish, subscribe, websocket
from wire import Envelope, check_chain, raw_items

DATA = [
    1, -0.5, True, None, "", "text", [], {}, [1, [2, [3]]], {"a": {"b": []}},
    "line\nbreak \r\n tab\t quote\" backslash\\ null\u0000 \u2028 é 漢字 🌊",
    {"type": "error", "payload": {}, "metadata": {}},
    "data: x\n\nid: y\nevent: z",
]  # fmt: skip


async def test_a_message_is_the_same_bytes_on_every_transport_and_in_history(edge, room):
    token = edge.token()
    async with AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(subscribe(edge, t, token, room)) for t in TRANSPORTS]
        await publish(edge, edge.token("bob"), room, *DATA)
        by_transport = [[message.raw for message in await r.messages(len(DATA))] for r in receivers]
        client = await stack.enter_async_context(edge.http())
        by_transport.append(raw_items((await client.get(messages_of(room), headers=bearer(token))).text, "messages"))
        socket = await stack.enter_async_context(websocket(edge, token))
        by_transport.append(raw_items((await socket.ask("history", {"channel": room})).raw, "messages"))
    assert [Envelope(raw).data for raw in by_transport[0]] == DATA
    for other in by_transport[1:]:
        assert other == by_transport[0]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_data_arrives_as_its_sender_wrote_it(edge, room, transport):
    written = '{"b":1.50,"a":"\\u00e9\\/","b":12345678901234567890,"c":1e2}'
    async with subscribe(edge, transport, edge.token(), room) as receiver, websocket(edge, edge.token("bob")) as bob:
        await bob.send_text(f'{{"type":"message","payload":{{"channel":"{room}","data":{written}}}}}')
        assert f'"data":{written}' in (await receiver.expect("message")).raw


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_message_names_the_one_before_it(edge, room, transport):
    async with subscribe(edge, transport, edge.token(), room) as receiver:
        joined_at = receiver.joined[room].payload["seq"]
        acks = await publish(edge, edge.token("bob"), room, *range(20))
        messages = await receiver.messages(20)
        check_chain(messages, prev=joined_at)
        assert [message.payload["seq"] for message in messages] == [ack["seq"] for ack in acks]
        assert {message.payload["epoch"] for message in messages} == {ack["epoch"] for ack in acks}


async def test_the_first_message_of_a_channel_has_no_predecessor(edge, room):
    await publish(edge, edge.token(), room, "first")
    async with edge.http() as client:
        first = (await client.get(messages_of(room), headers=bearer(edge.token()))).json()["messages"][0]
        assert first["payload"]["prev"] == 0


async def test_everyone_sees_one_order_whoever_publishes_at_the_same_time(edge, room):
    token = edge.token()
    async with AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(subscribe(edge, t, token, room)) for t in TRANSPORTS]
        senders = [publish(edge, edge.token(name), room, *range(20)) for name in ("bob", "carol", "dave")]
        await asyncio.gather(*senders)
        seen = [[message.raw for message in await r.messages(60)] for r in receivers]
        assert seen[0] == seen[1] == seen[2]
        check_chain([Envelope(raw) for raw in seen[0]])


async def test_a_message_tells_its_senders_user_and_connection_and_id(edge, room):
    async with websocket(edge, edge.token("bob")) as bob, websocket(edge, edge.token("alice")) as alice:
        await alice.join(room)
        await bob.publish(room, 1, message_id="my id ~ 1")
        message = await alice.expect("message")
        assert message.payload["sender_id"] == "bob"
        assert message.metadata["client_id"] == bob.established.payload["client_id"]
        assert message.metadata["message_id"] == "my id ~ 1"
        await bob.publish(room, 2)
        assert uuid.UUID((await alice.expect("message")).metadata["message_id"])


async def test_a_sender_cannot_claim_to_be_somebody_else(edge, room):
    async with websocket(edge, edge.token("bob")) as bob, websocket(edge, edge.token("alice")) as alice:
        await alice.join(room)
        forged = {"channel": room, "data": 1, "sender_id": "carol", "seq": 7, "user_id": "carol"}
        await bob.ask("message", forged, client_id=str(uuid.uuid4()))
        message = await alice.expect("message")
        assert message.payload["sender_id"] == "bob"
        assert message.metadata["client_id"] == bob.established.payload["client_id"]


async def test_a_sender_in_the_channel_gets_its_own_message(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        ack = await socket.publish(room, "mine", message_id="m1")
        message = await socket.expect("message")
        assert message.metadata["message_id"] == "m1"
        assert message.payload["seq"] == ack.payload["seq"]


async def test_a_sender_outside_the_channel_gets_only_the_ack(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.publish(room, "yours")
        await socket.nothing()


async def test_a_stream_begins_with_who_one_is_and_what_the_limits_are(edge):
    async with websocket(edge, edge.token("alice")) as socket:
        payload = socket.established.payload
        assert payload["user_id"] == "alice"
        assert payload["heartbeat_ms"] == 25_000
        assert payload["limits"]["message_bytes"] == 16384
        assert payload["limits"]["channels_per_connection"] == 8


async def test_each_connection_has_its_own_client_id(edge):
    token = edge.token()
    async with websocket(edge, token) as one, websocket(edge, token) as two:
        assert one.established.payload["client_id"] != two.established.payload["client_id"]


async def test_channels_do_not_leak_into_each_other(edge, room):
    token = edge.token()
    async with poller(edge, token, f"{room},{room}b") as receiver:
        joined = [(await receiver.expect("room_joined")).payload["channel"] for _ in range(2)]
        assert sorted(joined) == [room, f"{room}b"]
        await publish(edge, token, f"{room}c", "elsewhere")
        await publish(edge, token, f"{room}b", "here")
        message = await receiver.expect("message")
        assert (message.payload["channel"], message.data) == (f"{room}b", "here")


def test_raw_items_are_cut_exactly():
    text = '{"a":[0], "messages": [{"x":"],["} ,[1, 2],3.0],"cursor":"c"}'
    assert raw_items(text, "messages") == ['{"x":"],["}', "[1, 2]", "3.0"]
    assert [json.loads(item) for item in raw_items(text, "messages")] == [{"x": "],["}, [1, 2], 3]
