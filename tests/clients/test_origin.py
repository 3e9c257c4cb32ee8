"""Which pages may connect: 4003 for the others, on every endpoint a page can reach, and CORS for those that may."""

import pytest

from edge import APP
from refusals import DOORS, HTTP_DOORS, problem, refusal, request_of
from transports import bearer, websocket

NOT_ALLOWED = [
    "https://evil.example.com",
    "https://app.example.com.evil.com",
    "https://evil.com/https://app.example.com",
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://sub.app.example.com",
    "null",
    "",
]


@pytest.mark.parametrize("origin", NOT_ALLOWED)
@pytest.mark.parametrize("door", ["ws", "poll"])
async def test_an_origin_must_be_allowed_exactly(edge, door, origin):
    refused = await refusal(edge, door, edge.token(), headers={"Origin": origin})
    assert (refused.code, refused.reason) == (4003, "origin_not_allowed")


@pytest.mark.parametrize("door", DOORS)
async def test_every_door_looks_at_the_origin(edge, door):
    refused = await refusal(edge, door, edge.token(), headers={"Origin": NOT_ALLOWED[0]})
    assert (refused.code, refused.reason) == (4003, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in refused.headers


@pytest.mark.parametrize("door", HTTP_DOORS)
async def test_an_allowed_page_may_read_answers(edge, room, door):
    method, path, options = request_of(door, room)
    headers = bearer(edge.token()) | {"Origin": APP}
    async with edge.http() as client, client.stream(method, path, headers=headers, **options) as answer:
        assert answer.is_success
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "origin" in answer.headers["Vary"].lower()
        if door == "tickets":
            await answer.aread()
            edge.remember(answer.json()["ticket"])


@pytest.mark.parametrize("door", HTTP_DOORS)
async def test_an_allowed_page_may_read_refusals(edge, door):
    refused = await refusal(edge, door, headers={"Origin": APP})
    assert refused.code == 4001
    assert refused.headers["Access-Control-Allow-Origin"] == APP


async def test_an_allowed_page_may_read_that_there_is_nothing(edge):
    async with edge.http() as client:
        answer = await client.get("/v1/nothing", headers={"Origin": APP})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (404, APP)


async def test_an_allowed_page_may_open_a_websocket(edge):
    async with websocket(edge, edge.token(), origin=APP) as socket:
        await socket.alive()


@pytest.mark.parametrize("door", HTTP_DOORS)
async def test_a_preflight_allows_what_the_endpoint_takes(edge, room, door):
    method, path, options = request_of(door, room)
    headers = {
        "Origin": APP,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,last-event-id",
    }
    async with edge.http() as client:
        answer = await client.options(path, params=options.get("params"), headers=headers)
    assert answer.status_code in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert method in listed(answer, "Access-Control-Allow-Methods")
    allowed = {name.lower() for name in listed(answer, "Access-Control-Allow-Headers")}
    # Not "*": with credentials that is a header of this name (WHATWG Fetch, CORS protocol and credentials).
    assert {"authorization", "content-type", "idempotency-key", "last-event-id"} <= allowed
    assert int(answer.headers["Access-Control-Max-Age"]) > 0


@pytest.mark.parametrize("door", HTTP_DOORS)
async def test_a_preflight_of_another_origin_allows_nothing(edge, room, door):
    method, path, _ = request_of(door, room)
    headers = {"Origin": NOT_ALLOWED[0], "Access-Control-Request-Method": method}
    async with edge.http() as client:
        answer = await client.options(path, headers=headers)
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_edges_own_pages_need_no_entry(edge):
    async with websocket(edge, edge.token(), origin=edge.url()) as socket:
        await socket.alive()


async def test_who_sends_no_origin_is_not_asked(edge, room):
    async with edge.http() as client:
        answer = await client.get("/v1/poll", params={"channels": room}, headers=bearer(edge.token()))
        assert answer.status_code == 200
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_star_allows_every_page(start, room):
    edge = start(origins={"allow": ["*"]})
    origin = "https://whoever.example.org"
    async with websocket(edge, edge.token(), origin=origin) as socket, edge.http() as client:
        await socket.alive()
        headers = bearer(edge.token()) | {"Origin": origin}
        answer = await client.get("/v1/poll", params={"channels": room}, headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] in (origin, "*")


async def test_the_refused_origin_is_not_repeated(edge):
    async with edge.http() as client:
        headers = bearer(edge.token()) | {"Origin": "https://evil.example.com"}
        answer = await client.get("/v1/poll", params={"channels": "a"}, headers=headers)
        assert problem(answer).code == 4003
        assert "evil" not in answer.text


def listed(answer, header) -> list[str]:
    return [item.strip() for item in answer.headers[header].split(",")]
