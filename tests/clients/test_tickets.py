"""Tickets keep tokens out of URLs: good once, and for half a minute."""

import asyncio

import pytest

from edge import APP
from refusals import DOORS, refusal, request_of
from transports import bearer, event_stream, websocket


async def ticket(edge, token=None, **headers) -> str:
    async with edge.http() as client:
        answer = await client.post("/v1/tickets", headers=bearer(token or edge.token()) | headers)
        assert answer.is_success, answer.text
        body = answer.json()
        assert body.keys() == {"ticket", "expires_in"}
        assert 0 < body["expires_in"] <= 30
        return edge.remember(body["ticket"])


@pytest.mark.parametrize("door", [door for door in DOORS if door != "tickets"])
async def test_a_ticket_opens_every_door_once(edge, room, door):
    query = {"ticket": await ticket(edge, edge.token("alice-t"))}
    if door == "ws":
        async with websocket(edge, query=query) as socket:
            assert socket.established.payload["user_id"] == "alice-t"
    else:
        method, path, options = request_of(door, room)
        options["params"] = options.get("params", {}) | query
        async with edge.http() as client, client.stream(method, path, **options) as answer:
            assert answer.is_success, await answer.aread()
    refused = await refusal(edge, door, query=query)
    assert (refused.code, refused.reason) == (4002, "authentication_failed")


async def test_a_ticket_buys_no_other_ticket(edge):
    """One that leaked with a URL would else be good for as long as its token."""
    query = {"ticket": await ticket(edge, edge.token())}
    async with edge.http() as client:
        answer = await client.post("/v1/tickets", params=query)
    assert (answer.status_code, answer.json()["code"]) == (401, 4001)


async def test_a_ticket_has_the_grants_and_the_end_of_its_token(edge, room):
    token = edge.token(ttl=1.5, channels={"join": [room]})
    async with websocket(edge, query={"ticket": await ticket(edge, token)}) as socket:
        await socket.join(room)
        assert (await socket.refused("join_room", {"channel": f"{room}-other"}))["reason"] == "forbidden"
        assert (await socket.closed())[0] == 4002


async def test_two_uses_at_the_same_time_are_one(edge, room):
    query = {"channels": room, "ticket": await ticket(edge)}
    async with edge.http() as client:
        answers = await asyncio.gather(*[client.get("/v1/poll", params=query) for _ in range(8)])
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


@pytest.mark.parametrize("guess", ["", "x", "A" * 43, "ä", "../../etc/passwd"])
async def test_a_guessed_ticket_is_refused(edge, guess):
    assert (await refusal(edge, "poll", query={"ticket": guess})).code == 4002


async def test_tickets_differ_and_are_opaque(edge):
    token = edge.token("somebody")
    tickets = {await ticket(edge, token) for _ in range(20)}
    assert len(tickets) == 20
    assert all(len(one) >= 22 and "somebody" not in one for one in tickets), "128 bits at least"


async def test_a_page_of_an_allowed_origin_can_read_its_ticket(edge):
    async with edge.http() as client:
        answer = await client.post("/v1/tickets", headers=bearer(edge.token()) | {"Origin": APP})
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        query = {"ticket": edge.remember(answer.json()["ticket"]), "channels": "chat:a"}
        async with event_stream(edge, headers={"Origin": APP}, **query) as stream:
            assert (await stream.expect("connection_established")).payload["user_id"] == "alice"


async def test_a_ticket_is_no_token(edge):
    one = await ticket(edge)
    assert (await refusal(edge, "poll", one)).code == 4002
    assert (await refusal(edge, "poll", query={"token": one})).code == 4002


async def test_a_ticket_is_good_for_thirty_seconds(edge, room):
    early, late = await ticket(edge), await ticket(edge)
    await asyncio.sleep(25)
    async with edge.http() as client:
        assert (await client.get("/v1/poll", params={"channels": room, "ticket": early})).status_code == 200
        await asyncio.sleep(6)
    assert (await refusal(edge, "poll", query={"ticket": late})).code == 4002
