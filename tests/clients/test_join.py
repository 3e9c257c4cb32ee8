"""Joining, leaving, and where a join begins: live, in history, or where a cursor stopped."""

import asyncio

import pytest

from transports import TRANSPORTS, event_stream, poller, publish, subscribe, websocket
from wire import check_chain

# History of three, and a log that keeps nothing beyond it for longer than the shortest write timeout.
SHORT = {"channels__short": {"history_size": 3}, "limits": {"write_timeout": "500ms"}}


async def fill(edge, channel, count):
    """Publishes until only the newest three are held: the last comes when no laggard could want the first any more."""
    acks = await publish(edge, edge.token("bob"), channel, *range(count - 1))
    await asyncio.sleep(0.8)
    return acks + await publish(edge, edge.token("bob"), channel, count - 1)


async def test_a_join_begins_with_the_next_message(edge, room):
    acks = await publish(edge, edge.token("bob"), room, "before")
    async with websocket(edge, edge.token()) as socket:
        joined = await socket.join(room)
        assert joined.payload["recovered"] is False
        assert joined.payload["seq"] == acks[0]["seq"]
        assert joined.payload["epoch"] == acks[0]["epoch"]
        assert "presence" not in joined.payload
        await publish(edge, edge.token("bob"), room, "after")
        assert (await socket.expect("message")).data == "after"


@pytest.mark.parametrize("asked", [{}, {"history": 0}, {"history": 5}])
async def test_a_fresh_join_is_not_recovered_and_has_no_gap(edge, room, asked):
    async with websocket(edge, edge.token()) as socket:
        assert (await socket.join(room, **asked)).payload["recovered"] is False
        await socket.alive()
        await socket.nothing(0.1)


async def test_room_joined_comes_without_a_correlation_id_too(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.send("join_room", {"channel": room})
        joined = await socket.expect("room_joined")
        assert joined.correlation_id is None


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_history_replays_the_newest_after_room_joined(edge, room, transport):
    await publish(edge, edge.token("bob"), room, *range(5))
    async with subscribe(edge, transport, edge.token(), room, history=3) as receiver:
        messages = await receiver.messages(3)
        assert [message.data for message in messages] == [2, 3, 4]
        check_chain(messages, prev=receiver.joined[room].payload["seq"])
        await publish(edge, edge.token("bob"), room, 5)
        live = await receiver.expect("message")
        check_chain([*messages, live])
        assert live.data == 5


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_more_history_than_there_is_replays_all(edge, room, transport):
    await publish(edge, edge.token("bob"), room, 0, 1)
    async with subscribe(edge, transport, edge.token(), room, history=1000) as receiver:
        assert [message.data for message in await receiver.messages(2)] == [0, 1]


async def test_history_of_a_join_is_bounded_by_the_namespace(start):
    edge = start(**SHORT)
    await fill(edge, "short:a", 8)
    async with websocket(edge, edge.token()) as socket:
        await socket.join("short:a", history=100)
        assert [message.data for message in await socket.messages(3)] == [5, 6, 7]
        await socket.nothing(0.1)


async def test_recover_brings_what_was_missed(edge, room):
    acks = await publish(edge, edge.token("bob"), room, *range(4))
    async with websocket(edge, edge.token()) as socket:
        position = {"epoch": acks[1]["epoch"], "seq": acks[1]["seq"]}
        joined = await socket.join(room, recover=position)
        assert joined.payload["recovered"] is True
        messages = await socket.messages(2)
        assert [message.data for message in messages] == [2, 3]
        check_chain(messages, prev=acks[1]["seq"])


async def test_recover_from_the_newest_misses_nothing(edge, room):
    acks = await publish(edge, edge.token("bob"), room, 0)
    async with websocket(edge, edge.token()) as socket:
        joined = await socket.join(room, recover={"epoch": acks[0]["epoch"], "seq": acks[0]["seq"]})
        assert joined.payload["recovered"] is True
        await socket.nothing(0.2)


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_sse_and_poll_take_one_recover_per_channel(edge, room, transport):
    other = f"{room}-other"
    first = await publish(edge, edge.token("bob"), room, 1, 2)
    second = await publish(edge, edge.token("bob"), other, 1, 2, 3)
    recover = f"{first[0]['epoch']}:{first[0]['seq']},{second[0]['epoch']}:{second[0]['seq']}"
    async with subscribe(edge, transport, edge.token(), f"{room},{other}", recover=recover) as receiver:
        assert all(joined.payload["recovered"] for joined in receiver.joined.values())
        messages = await receiver.messages(3)
        data = {name: [m.data for m in messages if m.payload["channel"] == name] for name in (room, other)}
        assert data == {room: [2], other: [2, 3]}


async def test_the_cursor_of_room_joined_is_where_the_join_began(edge, room):
    async with websocket(edge, edge.token()) as socket:
        cursor = (await socket.join(room)).payload["cursor"]
        await publish(edge, edge.token("bob"), room, *range(3))
        await socket.messages(3)
    async with websocket(edge, edge.token()) as socket:
        assert (await socket.join(room, cursor=cursor)).payload["recovered"] is True
        assert [message.data for message in await socket.messages(3)] == [0, 1, 2]


async def test_joining_twice_moves_the_cursor(edge, room):
    acks = await publish(edge, edge.token("bob"), room, *range(3))
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        await socket.join(room, recover={"epoch": acks[0]["epoch"], "seq": acks[0]["seq"]})
        assert [message.data for message in await socket.messages(2)] == [1, 2]
        await socket.join(room, history=1)
        assert [message.data for message in await socket.messages(1)] == [2]
        await publish(edge, edge.token("bob"), room, "once")
        assert (await socket.expect("message")).data == "once"
        await socket.nothing(0.2)


async def test_after_leaving_nothing_comes(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        left = await socket.ask("leave_room", {"channel": room})
        assert (left.type, left.payload) == ("room_left", {"channel": room})
        await publish(edge, edge.token("bob"), room, 1)
        await socket.nothing()
        await socket.alive()


async def test_room_left_comes_without_a_correlation_id_too(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        await socket.send("leave_room", {"channel": room})
        assert (await socket.expect("room_left")).correlation_id is None


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_position_that_is_no_longer_held_is_told_with_one_gap(start, transport):
    edge = start(**SHORT)
    acks = await fill(edge, "short:a", 8)
    recover = f"{acks[1]['epoch']}:{acks[1]['seq']}"
    if transport == "ws":
        opened = websocket(edge, edge.token())
    else:
        opened = subscribe(edge, transport, edge.token(), "short:a", recover=recover)
    async with opened as receiver:
        if transport == "ws":
            joined = await receiver.join("short:a", recover={"epoch": acks[1]["epoch"], "seq": acks[1]["seq"]})
        else:
            joined = receiver.joined["short:a"]
        assert joined.payload["recovered"] is False
        gap = await receiver.expect("gap")
        expected = {"channel": "short:a", "epoch": acks[1]["epoch"], "seq": acks[5]["seq"], "reason": "expired"}
        assert gap.payload == expected
        messages = await receiver.messages(3)
        assert [message.data for message in messages] == [5, 6, 7]
        check_chain(messages)
        await publish(edge, edge.token("bob"), "short:a", 8)
        assert (await receiver.expect("message")).data == 8


async def test_history_ends_with_its_time_to_live(start):
    settings = {"channels__brief": {"history_ttl": "1s"}, "limits": {"write_timeout": "500ms"}}
    edge = start(**settings)
    acks = await publish(edge, edge.token("bob"), "brief:a", 0, 1)
    await asyncio.sleep(1.3)
    last = await publish(edge, edge.token("bob"), "brief:a", 2)
    async with websocket(edge, edge.token()) as socket:
        await socket.join("brief:a", recover={"epoch": acks[0]["epoch"], "seq": acks[0]["seq"]})
        gap = await socket.expect("gap")
        assert (gap.payload["reason"], gap.payload["seq"]) == ("expired", last[0]["seq"])
        assert (await socket.expect("message")).data == 2


async def test_a_position_of_another_epoch_is_told_with_one_gap(edge, room):
    acks = await publish(edge, edge.token("bob"), room, 0, 1)
    async with websocket(edge, edge.token()) as socket:
        joined = await socket.join(room, recover={"epoch": "another", "seq": acks[0]["seq"]})
        assert joined.payload["recovered"] is False
        gap = await socket.expect("gap")
        assert (gap.payload["reason"], gap.payload["epoch"]) == ("epoch_changed", acks[0]["epoch"])
        assert gap.payload["seq"] == acks[0]["seq"]
        assert [message.data for message in await socket.messages(2)] == [0, 1]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cursor_from_before_a_restart_is_told_of_the_new_epoch(start, transport, room):
    before = start()
    async with poller(before, before.token(), room) as receiver:
        cursor = (await receiver.poll()).cursor
        old = (await publish(before, before.token(), room, "lost"))[0]["epoch"]
    before.stop()
    after = start()
    async with subscribe(after, transport, after.token(), room, cursor=cursor) as receiver:
        gap = await receiver.expect("gap")
        assert gap.payload["reason"] == "epoch_changed"
        assert gap.payload["epoch"] != old
        await publish(after, after.token(), room, "new")
        assert (await receiver.expect("message")).data == "new"


async def test_more_channels_than_allowed_are_refused_and_the_rest_lives_on(edge, room):
    async with websocket(edge, edge.token()) as socket:
        for number in range(8):
            await socket.join(f"{room}-{number}")
        refused = await socket.refused("join_room", {"channel": f"{room}-8"})
        assert (refused["code"], refused["limit"]) == (4000, "limits.channels_per_connection")
        assert refused["channel"] == f"{room}-8"
        await socket.join(f"{room}-7")
        await socket.ask("leave_room", {"channel": f"{room}-0"})
        await socket.join(f"{room}-8")


async def test_one_stream_carries_several_channels(edge, room):
    names = [f"{room}-{number}" for number in range(3)]
    async with event_stream(edge, edge.token(), ",".join(names)) as stream:
        await stream.expect("connection_established")
        assert [(await stream.expect("room_joined")).payload["channel"] for _ in names] == names
        for name in names:
            await publish(edge, edge.token("bob"), name, name)
            message = await stream.expect("message")
            assert (message.payload["channel"], message.data) == (name, name)


async def test_a_websocket_joins_what_its_query_names(edge, room):
    await publish(edge, edge.token("bob"), room, 0, 1)
    query = {"channels": f"{room},{room}-b", "history": "1", "presence": "1"}
    async with websocket(edge, edge.token(), query=query) as socket:
        joined = await socket.expect("room_joined")
        assert joined.payload["channel"] == room
        assert [user["user_id"] for user in joined.payload["presence"]] == ["alice"]
        other = await socket.until("room_joined", channel=f"{room}-b")
        assert other.payload["recovered"] is False


@pytest.mark.parametrize("name", ["a", "A.b-c_d:e@f=g/h!1", "x" * 200, "user-1:y:z"])
async def test_channel_names_may_hold_what_the_protocol_says(edge, name):
    async with websocket(edge, edge.token()) as socket:
        assert (await socket.join(name)).payload["channel"] == name
        ack = (await publish(edge, edge.token(), name, 1))[0]
        assert ack["channel"] == name
        assert (await socket.until("message")).payload["channel"] == name
