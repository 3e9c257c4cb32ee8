"""Typing: told to the other users at once, ended by itself, never stored."""

import time

import pytest

from transports import bearer, messages_of, subscribe, websocket

SILENCE = 5  # seconds after which nobody types any more


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_the_others_are_told(edge, room, transport):
    async with (
        subscribe(edge, transport, edge.token("alice"), room) as alice,
        websocket(edge, edge.token("bob")) as bob,
    ):
        await bob.join(room)
        await bob.send("typing_start", {"channel": room})
        start = await alice.expect("typing_start")
        assert start.payload == {"channel": room, "user_id": "bob"}
        assert start.metadata["client_id"] == bob.established.payload["client_id"]
        assert start.event_id is None
        await bob.send("typing_stop", {"channel": room})
        assert (await alice.expect("typing_stop")).payload == {"channel": room, "user_id": "bob"}


async def test_the_user_itself_is_not_told_on_any_of_its_connections(edge, room):
    async with websocket(edge, edge.token("bob")) as one, websocket(edge, edge.token("bob")) as two:
        await one.join(room)
        await two.join(room)
        await one.send("typing_start", {"channel": room})
        await one.send("typing_stop", {"channel": room})
        await one.nothing(0.3)
        await two.nothing(0.1)


async def test_it_stops_by_itself_five_seconds_after_the_last_start(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob")) as bob:
        await alice.join(room)
        await bob.join(room)
        await bob.send("typing_start", {"channel": room})
        await alice.expect("typing_start")
        await alice.nothing(2)
        await bob.send("typing_start", {"channel": room})
        last = time.monotonic()
        await alice.until("typing_stop", user_id="bob", timeout=SILENCE + 2)
        assert SILENCE - 0.5 < time.monotonic() - last < SILENCE + 1.5
        await alice.nothing(0.5)


async def test_it_stops_when_the_sender_leaves_the_channel(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob")) as bob:
        await alice.join(room)
        await bob.join(room)
        await bob.send("typing_start", {"channel": room})
        await alice.expect("typing_start")
        await bob.ask("leave_room", {"channel": room})
        await alice.until("typing_stop", user_id="bob", timeout=2)


async def test_it_stops_when_the_sender_is_gone(edge, room):
    async with websocket(edge, edge.token("alice")) as alice:
        await alice.join(room)
        async with websocket(edge, edge.token("bob")) as bob:
            await bob.join(room)
            await bob.send("typing_start", {"channel": room})
            await alice.expect("typing_start")
            bob.connection.transport.abort()
            await alice.until("typing_stop", user_id="bob", timeout=2)


async def test_it_can_be_sent_over_http(edge, room):
    async with websocket(edge, edge.token("alice")) as alice, edge.http() as client:
        await alice.join(room)
        for type in ("typing_start", "typing_stop"):
            body = [{"type": type, "payload": {"channel": room}}]
            await client.post("/v1/send", json=body, headers=bearer(edge.token("bob")))
            assert (await alice.expect(type)).payload == {"channel": room, "user_id": "bob"}


async def test_it_is_not_stored(edge, room):
    async with websocket(edge, edge.token("bob")) as bob, edge.http() as client:
        await bob.join(room)
        await bob.send("typing_start", {"channel": room})
        await bob.alive()
        history = await client.get(messages_of(room), headers=bearer(edge.token()))
        assert history.json()["messages"] == []


async def test_it_needs_the_grant_to_send(edge, room):
    async with websocket(edge, edge.token("bob", channels={"join": ["chat:*"]})) as bob:
        await bob.join(room)
        assert (await bob.refused("typing_start", {"channel": room}))["reason"] == "forbidden"
