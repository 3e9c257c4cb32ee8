"""4004: which limit, and an honest word about when to come again."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from refusals import DOORS, problem, refusal, request_of
from transports import bearer, event_stream, messages_of, publish, until_served, websocket

PER_MINUTE = 60  # so that one comes back each second


@pytest.fixture
def limited(start):
    return start(quota={"messages_per_connection_per_minute": PER_MINUTE})


async def use_up(socket, room) -> dict:
    """Sends until one is refused, and returns that refusal."""
    for number in range(PER_MINUTE + 30):
        answer = await socket.ask("message", {"channel": room, "data": number})
        if answer.type == "error":
            assert number >= PER_MINUTE, f"refused after {number} messages"
            return answer.payload
    raise AssertionError(f"{PER_MINUTE + 30} messages were taken")


async def test_a_message_too_many_is_told_with_its_limit_and_the_connection_lives_on(limited, room):
    async with websocket(limited, limited.token()) as socket:
        refused = await use_up(socket, room)
        assert (refused["code"], refused["reason"]) == (4004, "rate_limited")
        assert refused["limit"] == "quota.messages_per_connection_per_minute"
        assert 0 < refused["retry_after_ms"] <= 1100
        await socket.alive()


async def test_waiting_as_long_as_told_is_enough_and_less_is_not(limited, room):
    async with websocket(limited, limited.token()) as socket:
        for _ in range(2):
            refused = await use_up_again(socket, room)
            await asyncio.sleep(refused["retry_after_ms"] / 1000 + 0.02)
            answer = await socket.ask("message", {"channel": room, "data": "again"})
            assert answer.type == "message_ack", answer.raw


async def use_up_again(socket, room) -> dict:
    while True:
        answer = await socket.ask("message", {"channel": room, "data": 1})
        if answer.type == "error":
            return answer.payload


async def test_typing_counts_as_a_message_and_asking_does_not(limited, room):
    async with websocket(limited, limited.token()) as socket:
        for _ in range(PER_MINUTE // 2):
            await socket.send("typing_start", {"channel": room})
            await socket.send("typing_stop", {"channel": room})
        refused = await use_up_again(socket, room)
        assert refused["limit"] == "quota.messages_per_connection_per_minute"
        for _ in range(PER_MINUTE):
            await socket.alive()


async def test_each_websocket_has_its_own_message_quota(limited, room):
    token = limited.token()
    async with websocket(limited, token) as one, websocket(limited, token) as two:
        await use_up(one, room)
        await two.publish(room, "mine")


async def test_ten_messages_too_many_in_a_row_close_the_connection(limited, room):
    async with websocket(limited, limited.token()) as socket:
        for number in range(PER_MINUTE + 20):
            await socket.send("message", {"channel": room, "data": number})
        assert await socket.closed() == (4004, "rate_limited")
        assert [envelope.payload["code"] for envelope in socket.early] == [4004] * 10


@pytest.mark.parametrize("door", ["publish", "send"])
async def test_over_http_the_quota_is_the_users(limited, room, door):
    alice = limited.token("alice")
    method, path, options = request_of(door, room)
    async with limited.http() as client:
        answers = []
        while not answers or (answers[-1].is_success and len(answers) < PER_MINUTE + 30):
            # Another token of the same user is no other quota.
            token = limited.token("alice") if len(answers) % 2 else alice
            answers.append(await client.request(method, path, headers=bearer(token), **options))
        assert len(answers) > PER_MINUTE
        assert answers[-1].status_code == 429
        refused = problem(answers[-1])
        assert (refused.code, refused.payload["limit"]) == (4004, "quota.messages_per_connection_per_minute")
        assert 1 <= int(refused.headers["Retry-After"]) <= 2
        other = await client.request(method, path, headers=bearer(limited.token("bob")), **options)
        assert other.is_success, "another user has a quota of its own"
        await asyncio.sleep(refused.payload["retry_after_ms"] / 1000 + 0.02)
        assert (await client.request(method, path, headers=bearer(alice), **options)).is_success


async def test_in_an_array_each_message_too_many_has_its_own_answer(limited, room):
    envelopes = [
        {"type": "message", "payload": {"channel": room, "data": n}, "metadata": {"correlation_id": str(n)}}
        for n in range(PER_MINUTE + 20)
    ]
    async with limited.http() as client:
        answer = await client.post("/v1/send", json=envelopes, headers=bearer(limited.token()))
        assert answer.status_code == 200
        answers = answer.json()
    assert [a["metadata"]["correlation_id"] for a in answers] == [str(n) for n in range(PER_MINUTE + 20)]
    types = [a["type"] for a in answers]
    assert types[:PER_MINUTE] == ["message_ack"] * PER_MINUTE
    assert types[-10:] == ["error"] * 10
    assert answers[-1]["payload"]["code"] == 4004


async def test_a_backend_has_a_quota_of_its_own(start, room):
    edge = start(quota={"messages_per_connection_per_minute": 5, "sends_per_server_per_second": 20})
    backend = edge.token("backend", role="server")
    await publish(edge, backend, room, *range(10))
    envelopes = [
        {"type": "message", "payload": {"channel": room, "data": n}, "metadata": {"correlation_id": str(n)}}
        for n in range(80)
    ]
    async with edge.http() as client:
        answers = (await client.post("/v1/send", json=envelopes, headers=bearer(backend))).json()
        refused = [a["payload"] for a in answers if a["type"] == "error"]
        assert refused
        assert {r["limit"] for r in refused} == {"quota.sends_per_server_per_second"}
        assert max(r["retry_after_ms"] for r in refused) <= 1000
        await asyncio.sleep(refused[-1]["retry_after_ms"] / 1000 + 0.02)
        answer = await client.post(messages_of(room), json=1, headers=bearer(backend))
        assert answer.status_code == 201


# ---- Connections of one address ----


@pytest.fixture
def three(start):
    return start(quota={"connections_per_ip": 3})


async def hold(stack, edge, count):
    return [await stack.enter_async_context(websocket(edge, edge.token())) for _ in range(count)]


@pytest.mark.parametrize("door", DOORS)
async def test_a_connection_too_many_is_told_with_its_limit(three, door):
    async with AsyncExitStack() as stack:
        await hold(stack, three, 3)
        refused = await refusal(three, door, three.token())
        assert (refused.code, refused.reason) == (4004, "rate_limited")
        assert refused.payload["limit"] == "quota.connections_per_ip"


async def test_a_connection_that_ends_makes_room(three):
    async with AsyncExitStack() as stack:
        [first, *_] = await hold(stack, three, 3)
        await refusal(three, "ws", three.token())
        await first.connection.close()
        await until_served(three)


async def test_a_refused_http2_connection_can_have_better_luck_later(three, room):
    """Browsers keep such a connection, and their EventSource comes back on it."""
    async with three.http(http2=True) as client:
        query, headers = {"channels": room}, bearer(three.token())
        async with AsyncExitStack() as stack:
            await hold(stack, three, 3)
            assert (await client.get("/v1/poll", params=query, headers=headers)).status_code == 429
        deadline = time.monotonic() + 3
        while (await client.get("/v1/poll", params=query, headers=headers)).status_code != 200:
            assert time.monotonic() < deadline, "still refused 3 s after all others were closed"
            await asyncio.sleep(0.2)


async def test_refused_connections_do_not_use_up_the_room(three):
    async with AsyncExitStack() as stack:
        sockets = await hold(stack, three, 3)
        for _ in range(5):
            await refusal(three, "ws", three.token())
        for socket in sockets:
            await socket.alive()
    await asyncio.sleep(0.5)
    async with AsyncExitStack() as stack:
        await hold(stack, three, 3)


async def test_connects_too_fast_are_told_with_their_limit(start):
    edge = start(quota={"connects_per_ip_per_minute": 6})
    for _ in range(6):
        async with websocket(edge, edge.token()):
            pass
    for door in ("ws", "poll"):
        refused = await refusal(edge, door, edge.token())
        assert (refused.code, refused.payload["limit"]) == (4004, "quota.connects_per_ip_per_minute")
        assert 0 < refused.payload["retry_after_ms"] <= 10_500


async def test_a_page_is_told_in_a_way_that_its_event_source_survives(three, room):
    """Native EventSource gives up for good on any status but 200."""
    async with AsyncExitStack() as stack:
        await hold(stack, three, 3)
        async with event_stream(three, three.token(), room) as stream:
            error = await stream.expect("error")
            assert (error.payload["code"], error.payload["limit"]) == (4004, "quota.connections_per_ip")
            await stream.ended()
            assert stream.text.startswith("retry:")
            assert stream.retry >= error.payload.get("retry_after_ms", 1)
            assert stream.cursor is None


async def test_what_will_not_pass_is_no_temporary_refusal_even_to_an_event_source(edge, room):
    async with edge.http() as client:
        headers = {"Accept": "text/event-stream"} | bearer(edge.token(ttl=-1))
        answer = await client.get("/v1/sse", params={"channels": room}, headers=headers)
        assert (answer.status_code, problem(answer).code) == (401, 4002)


async def test_other_requests_have_a_flood_guard(start, room):
    edge = start(quota={"requests_per_connection_per_minute": 60})
    async with edge.http() as client:
        while True:
            answer = await client.get(messages_of(room), headers=bearer(edge.token()))
            if answer.status_code != 200:
                break
        refused = problem(answer)
        assert (answer.status_code, refused.payload["limit"]) == (429, "quota.requests_per_connection_per_minute")
