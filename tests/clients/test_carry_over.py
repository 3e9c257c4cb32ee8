"""A client changes transport in the middle, with nothing lost and nothing twice."""

import itertools

import pytest

from transports import TRANSPORTS, bearer, event_stream, messages_of, poller, publish, subscribe, websocket
from wire import check_chain


async def test_a_cursor_goes_from_websocket_to_sse_to_poll_and_back(edge, room):
    bob, token = edge.token("bob"), edge.token()
    seen = []
    async with edge.http() as client:

        async def publish_three():
            number = len(await history(client))
            await publish(edge, bob, room, *range(number, number + 3), client=client)

        async def history(client):
            answer = await client.get(messages_of(room), headers=bearer(bob))
            return answer.json()["messages"]

        async with websocket(edge, token) as socket:
            cursor = (await socket.join(room)).payload["cursor"]
        await publish_three()
        async with event_stream(edge, token, room, cursor=cursor) as stream:
            await stream.expect("connection_established")
            assert (await stream.expect("room_joined")).payload["recovered"] is True
            seen += await stream.messages(3)
            await publish_three()
            seen += await stream.messages(3)
            cursor = stream.cursor
        await publish_three()
        async with poller(edge, token, room) as polls:
            answer = await polls.poll(cursor=cursor)
            seen += answer.of_type("message")
            cursor = answer.cursor
            await publish_three()
            answer = await polls.poll(cursor=cursor)
            seen += answer.of_type("message")
            cursor = answer.cursor
        await publish_three()
        async with websocket(edge, token) as socket:
            assert (await socket.join(room, cursor=cursor)).payload["recovered"] is True
            seen += await socket.messages(3)
            await publish_three()
            seen += await socket.messages(3)
    check_chain(seen)
    assert [message.data for message in seen] == list(range(18))


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(TRANSPORTS, 2)))
async def test_every_change_continues_after_the_last_message(edge, room, first, second):
    bob, token = edge.token("bob"), edge.token()
    async with subscribe(edge, first, token, room) as receiver:
        await publish(edge, bob, room, 0, 1)
        seen = await receiver.messages(2)
        # A WebSocket's own cursor is that of its join; after messages it has their positions.
        if first == "ws":
            resume = {"recover": receiver.recover(room)}
        else:
            resume = {"cursor": receiver.cursor}
    await publish(edge, bob, room, 2)
    async with subscribe(edge, second, token, room, **resume) as receiver:
        seen += await receiver.messages(1)
        await publish(edge, bob, room, 3)
        seen += await receiver.messages(1)
    check_chain(seen)
    assert [message.data for message in seen] == [0, 1, 2, 3]


async def test_last_event_id_wins_over_the_cursor_of_the_url(edge, room):
    bob, token = edge.token("bob"), edge.token()
    async with event_stream(edge, token, room) as stream:
        await stream.until("room_joined")
        old = stream.cursor
        await publish(edge, bob, room, 0, 1)
        await stream.messages(2)
        new = stream.cursor
    await publish(edge, bob, room, 2)
    async with event_stream(edge, token, room, cursor=old, headers={"Last-Event-ID": new}) as stream:
        assert (await stream.until("message")).data == 2


async def test_one_cursor_names_a_position_in_each_channel(edge, room):
    bob, token = edge.token("bob"), edge.token()
    a, b = f"{room}-a", f"{room}-b"
    async with event_stream(edge, token, f"{a},{b}") as stream:
        await stream.until("room_joined", channel=b)
        await publish(edge, bob, a, "a1")
        await publish(edge, bob, b, "b1")
        await stream.messages(2)
        cursor = stream.cursor
    await publish(edge, bob, a, "a2", "a3")
    await publish(edge, bob, b, "b2")
    async with poller(edge, token, f"{a},{b}", cursor=cursor) as polls:
        messages = await polls.messages(3)
        data = {name: [m.data for m in messages if m.payload["channel"] == name] for name in (a, b)}
        assert data == {a: ["a2", "a3"], b: ["b2"]}


async def test_each_event_id_resumes_exactly_behind_its_event(edge, room):
    bob, token = edge.token("bob"), edge.token()
    async with event_stream(edge, token, room) as stream:
        await stream.until("room_joined")
        await publish(edge, bob, room, *range(4))
        events = await stream.messages(4)
    for event in events:
        async with poller(edge, token, room) as polls:
            answer = await polls.poll(cursor=event.event_id, wait=0)
            assert [message.data for message in answer.envelopes] == list(range(event.data + 1, 4))


async def test_a_cursor_is_of_a_position_not_of_a_user(edge, room):
    """HTTP transports keep no state on a node, and a cursor grants nothing: it only says where."""
    async with poller(edge, edge.token("alice"), room) as polls:
        cursor = (await polls.poll()).cursor
    await publish(edge, edge.token("bob"), room, "x")
    async with poller(edge, edge.token("carol"), room) as polls:
        assert [m.data for m in (await polls.poll(cursor=cursor)).envelopes] == ["x"]
