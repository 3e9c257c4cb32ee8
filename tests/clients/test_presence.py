"""Who is there: once per user, over all connections and transports."""

import asyncio
import time

import pytest

from refusals import problem
from transports import TRANSPORTS, bearer, event_stream, poller, presence_of, subscribe, websocket

GRACE = 3  # seconds in which a user who comes back was never offline
POLL_LEASE = 10  # seconds that a user who polled stays


async def users(edge, room) -> dict[str, int]:
    """User to connections, as an onlooker who has not joined sees it."""
    async with edge.http() as client:
        answer = await client.get(presence_of(room), headers=bearer(edge.token("onlooker")))
        assert answer.status_code == 200, answer.text
        payload = answer.json()
        assert payload.keys() == {"channel", "users", "total"}
        assert (payload["channel"], payload["total"]) == (room, len(payload["users"]))
        return {user["user_id"]: user["connections"] for user in payload["users"]}


async def test_nobody_is_in_an_empty_channel(edge, room):
    assert await users(edge, room) == {}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whoever_joins_is_there(edge, room, transport):
    async with subscribe(edge, transport, edge.token("bob"), room):
        assert await users(edge, room) == {"bob": 1}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_join_with_presence_gets_the_list_and_one_without_does_not(edge, room, transport):
    async with websocket(edge, edge.token("bob", info={"name": "Bob"})) as bob:
        assert "presence" not in (await bob.join(room)).payload
        async with subscribe(edge, transport, edge.token("alice"), room, presence="1") as alice:
            listed = alice.joined[room].payload["presence"]
            assert [user["user_id"] for user in listed] == ["alice", "bob"]
            assert listed[1]["info"] == {"name": "Bob"}
            assert "info" not in listed[0]


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_watchers_are_told_once_who_comes_and_goes(edge, room, transport):
    async with subscribe(edge, transport, edge.token("alice"), room, presence="1") as alice:
        async with websocket(edge, edge.token("bob", info={"name": "Bob"})) as bob:
            await bob.join(room)
            update = await alice.until("presence_update", user_id="bob")
            assert update.payload == {"channel": room, "user_id": "bob", "online": True, "info": {"name": "Bob"}}
            async with event_stream(edge, edge.token("bob"), room) as second:
                await second.until("room_joined")
                assert (await users(edge, room))["bob"] == 2
        left = time.monotonic()
        update = await alice.until("presence_update", user_id="bob", timeout=GRACE + 3)
        assert update.payload["online"] is False
        assert time.monotonic() - left > GRACE - 0.5
        assert "bob" not in await users(edge, room)


async def test_a_poll_that_waits_is_woken_by_messages_and_counts_as_there(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, poller(edge, edge.token("bob"), room) as bob:
        await alice.join(room, presence=True)
        cursor = (await bob.poll()).cursor
        update = await alice.until("presence_update", user_id="bob")
        assert update.payload["online"] is True
        polling = asyncio.create_task(bob.poll(cursor=cursor))
        await asyncio.sleep(0.3)
        assert (await users(edge, room))["bob"] == 1
        await alice.publish(room, 1)
        await polling


async def test_those_who_did_not_ask_for_updates_get_none(edge, room):
    async with websocket(edge, edge.token("alice")) as alice:
        await alice.join(room)
        async with websocket(edge, edge.token("bob")) as bob:
            await bob.join(room)
            await alice.nothing(0.5)


async def test_who_is_back_within_three_seconds_was_never_offline(edge, room):
    async with websocket(edge, edge.token("alice")) as alice:
        await alice.join(room, presence=True)
        async with websocket(edge, edge.token("bob")) as bob:
            await bob.join(room)
            await alice.until("presence_update", user_id="bob")
        await asyncio.sleep(GRACE / 2)
        async with event_stream(edge, edge.token("bob"), room) as bob:
            await bob.until("room_joined")
            await alice.nothing(GRACE + 1, type="presence_update", user_id="bob")


async def test_leaving_a_room_is_going(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob")) as bob:
        await alice.join(room, presence=True)
        await bob.join(room)
        await alice.until("presence_update", user_id="bob", online=True)
        await bob.ask("leave_room", {"channel": room})
        await alice.until("presence_update", user_id="bob", online=False, timeout=GRACE + 2)


async def test_who_polls_is_there_for_ten_seconds_more(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, poller(edge, edge.token("bob"), room) as bob:
        await alice.join(room, presence=True)
        answer = await bob.poll()
        await alice.until("presence_update", user_id="bob", online=True)
        await asyncio.sleep(2)
        await bob.poll(cursor=answer.cursor, wait=1)
        last = time.monotonic()
        await alice.until("presence_update", user_id="bob", timeout=POLL_LEASE + 3, online=False)
        assert time.monotonic() - last > POLL_LEASE - 1


async def test_presence_is_answered_on_a_websocket(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob", info=[1])) as bob:
        await bob.join(room)
        state = await alice.ask("presence", {"channel": room})
        assert state.type == "presence_state"
        listed = [{"user_id": "bob", "connections": 1, "info": [1]}]
        assert state.payload == {"channel": room, "users": listed, "total": 1}
        await alice.send("presence", {"channel": room})
        assert (await alice.expect("presence_state")).correlation_id is None


async def test_two_joins_of_one_connection_count_once(edge, room):
    async with websocket(edge, edge.token("bob")) as bob:
        await bob.join(room)
        await bob.join(room)
        assert await users(edge, room) == {"bob": 1}


async def test_a_namespace_without_presence_tells_nothing(edge):
    async with websocket(edge, edge.token()) as socket, edge.http() as client:
        assert "presence" not in (await socket.join("quiet:a", presence=True)).payload
        assert (await socket.refused("presence", {"channel": "quiet:a"}))["code"] == 4000
        answer = await client.get(presence_of("quiet:a"), headers=bearer(edge.token()))
        assert (answer.status_code, problem(answer).code) == (400, 4000)
