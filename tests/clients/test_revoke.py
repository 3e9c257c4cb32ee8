"""Tokens that are taken back before they run out, and tickets that are shown to another node than their own.

With `lone` there is one node with its bus inside, with `nodes` there are two over a real nats-server.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from contextlib import contextmanager

import httpx
import pytest

from documents import check_exchange
from edge import exchange_of, find_binary
from nats_server import NatsServer, deployed, nats_version, node, start_nats  # noqa: F401 (fixtures)
from refusals import DOORS, refusal, request_of
from test_admin import metrics
from transports import TRANSPORTS, bearer, event_stream, poller, subscribe, websocket

WITHIN = 1.0  # seconds from the command's end until the last connection on the last node is closed
DOORS_OF_TICKETS = [door for door in DOORS if door != "tickets"]


# ---- Nodes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nats(start_nats) -> NatsServer:
    return start_nats()


@pytest.fixture
def bus(nats) -> dict:
    return {"kind": "nats", "url": nats.url}


@pytest.fixture
def nodes(start, bus) -> list:
    return [start(bus=bus), start(bus=bus)]


@pytest.fixture(params=["lone", "nodes"])
def any_nodes(request, start) -> list:
    """One node that is all there is, or two: what holds on one must hold on the other."""
    if request.param == "lone":
        return [start()] * 2
    return request.getfixturevalue("nodes")


# ---- Revoking --------------------------------------------------------------------------------------------------


def command(edge, *arguments: str) -> subprocess.CompletedProcess:
    line = [str(find_binary()), "revoke", "--admin", f"http://{edge.admin_address}", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)


async def revoke(edge, *arguments: str) -> dict:
    done = await asyncio.to_thread(command, edge, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(edge, method: str = "GET", body=None, **headers) -> httpx.Response:
    """`/revocations` of the admin listener, held against the document."""
    content = None if body is None else body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json"} | headers
    url = f"http://{edge.admin_address}/revocations"
    answer = httpx.request(method, url, content=content, headers=headers, trust_env=False, timeout=15)
    check_exchange(exchange_of(answer, answer.text), admin=True)
    return answer


def issued(seconds_ago: float = 5) -> dict:
    return {"iat": time.time() - seconds_ago}


@contextmanager
def at_once():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < WITHIN


async def next_second() -> None:
    """An `iat` is in whole seconds: only in the next one a token is surely later."""
    await asyncio.sleep(1.05 - time.time() % 1)


async def refused_soon(edge, door: str, token: str, room: str) -> None:
    told = await refusal(edge, door, token, room=room)
    assert (told.code, told.reason) == (4002, "revoked")


async def works(edge, token: str, room: str) -> None:
    async with edge.http() as client:
        answer = await client.get("/v1/poll", params={"channels": room}, headers=bearer(token))
        assert answer.status_code == 200, answer.text


async def ended_as_revoked(transport: str, receiver) -> None:
    if transport == "ws":
        assert await receiver.closed(WITHIN) == (4002, "revoked")
        error = receiver.early[-1]
    else:
        await receiver.ended(WITHIN)
        error = receiver.early[-1]
    assert error.type == "error", error
    assert (error.payload["code"], error.payload["reason"]) == (4002, "revoked")


@pytest.mark.parametrize("transport", ["ws", "sse"])
@pytest.mark.parametrize("by", ["sub", "jti"])
async def test_what_is_open_is_closed_on_every_node(any_nodes, transport, by, room):
    """The others stay, also those of the same user with another token, if it was one token that was revoked."""
    here, there = any_nodes
    user, jti = f"alice-{uuid.uuid4().hex}", uuid.uuid4().hex
    token, other = here.token(user, jti=jti, **issued()), here.token("bob", **issued())
    second = here.token(user, **issued())
    async with (
        subscribe(here, transport, token, room) as one,
        subscribe(there, transport, token, room) as two,
        subscribe(there, transport, second, room) as three,
        subscribe(there, "ws", other, room) as bob,
    ):
        await revoke(here, f"--{by}", user if by == "sub" else jti)
        with at_once():
            for receiver in (one, two, *([three] if by == "sub" else [])):
                await ended_as_revoked(transport, receiver)
        await bob.alive()
        await bob.publish(room, "still here")
        if by == "jti":
            assert (await three.until("message")).data == "still here"


async def test_a_poll_that_waits_is_refused(any_nodes, room):
    here, there = any_nodes
    user = f"alice-{uuid.uuid4().hex}"
    token = here.token(user, **issued())
    async with poller(there, token, room) as polls:
        cursor = (await polls.poll()).cursor
        query = {"channels": room, "cursor": cursor, "wait": 30}
        waiting = asyncio.create_task(polls.client.get("/v1/poll", params=query, headers=bearer(token)))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await revoke(here, "--sub", user)
        answer = await asyncio.wait_for(waiting, WITHIN)
        assert (answer.status_code, answer.json()["code"], answer.json()["reason"]) == (401, 4002, "revoked")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        again = await polls.client.get("/v1/poll", params=query, headers=bearer(token))
        assert (again.status_code, again.json()["reason"]) == (401, "revoked")


@pytest.mark.parametrize("http2", [False, True])
async def test_a_stream_ends_over_each_version_of_http(edge, room, http2):
    user = f"alice-{uuid.uuid4().hex}"
    async with event_stream(edge, edge.token(user, **issued()), room, http2=http2) as stream:
        await stream.until("room_joined")
        await revoke(edge, "--sub", user)
        await ended_as_revoked("sse", stream)


async def test_every_door_of_every_node_refuses_it(any_nodes, room):
    here, there = any_nodes
    user = f"alice-{uuid.uuid4().hex}"
    token = here.token(user, **issued())
    await works(there, token, room)
    await revoke(here, "--sub", user)
    await asyncio.sleep(WITHIN)
    for edge in (here, there):
        for door in DOORS:
            await refused_soon(edge, door, token, room)


async def test_a_later_token_is_good(any_nodes, room):
    here, there = any_nodes
    user = f"alice-{uuid.uuid4().hex}"
    await revoke(here, "--sub", user)
    await asyncio.sleep(WITHIN)
    for edge in (here, there):
        await refused_soon(edge, "poll", edge.token(user, **issued(9)), room)
        await refused_soon(edge, "poll", edge.token(user), room)  # without iat
        await refused_soon(edge, "poll", edge.token(user, iat=time.time() + 3600), room)
    await next_second()
    later = here.token(user, iat=int(time.time()))
    for edge in (here, there):
        await works(edge, later, room)
    async with websocket(there, later) as socket:
        await socket.alive()


async def test_a_renewal_with_a_revoked_token_ends_the_connection(edge):
    user, jti = f"alice-{uuid.uuid4().hex}", uuid.uuid4().hex
    await revoke(edge, "--jti", jti)
    async with websocket(edge, edge.token(user)) as socket:
        await socket.send("auth", {"token": edge.token(user, jti=jti)})
        assert (await socket.closed())[0] == 4002
        assert socket.early[-1].payload["reason"] == "revoked"


async def test_a_renewal_saves_the_connection(edge):
    """It lives by its newest token, and by that alone."""
    user, first, second = f"alice-{uuid.uuid4().hex}", uuid.uuid4().hex, uuid.uuid4().hex
    async with websocket(edge, edge.token(user, jti=first)) as socket:
        assert (await socket.ask("auth", {"token": edge.token(user, jti=second)})).type == "auth_response"
        await revoke(edge, "--jti", first)
        await socket.alive()
        await asyncio.sleep(0.3)
        await socket.alive()
        await revoke(edge, "--jti", second)
        await ended_as_revoked("ws", socket)


async def test_a_token_that_comes_in_an_envelope_is_refused(edge):
    jti = uuid.uuid4().hex
    await revoke(edge, "--jti", jti)
    async with websocket(edge) as socket:
        await socket.send("auth", {"token": edge.token(jti=jti)})
        await ended_as_revoked("ws", socket)


async def test_guests_are_let_alone(start, room):
    edge = start(auth={"mode": "optional"}, channels__default={"join": "anyone"})
    async with websocket(edge) as guest:
        await guest.join(room)
        await revoke(edge, "--sub", "alice")
        await asyncio.sleep(0.3)
        await guest.alive()


async def test_a_revocation_ends(any_nodes, room):
    here, there = any_nodes
    user = f"alice-{uuid.uuid4().hex}"
    token = here.token(user, **issued())
    await revoke(here, "--sub", user, "--for", "2s")
    await asyncio.sleep(0.5)
    await refused_soon(there, "poll", token, room)
    await asyncio.sleep(2)
    for edge in (here, there):
        await works(edge, token, room)


async def test_a_shorter_one_does_not_end_a_longer_one(any_nodes):
    here, there = any_nodes
    user = f"alice-{uuid.uuid4().hex}"
    long = await revoke(here, "--sub", user, "--for", "7days")
    short = await revoke(there, "--sub", user, "--for", "1s")
    assert short["until"] == long["until"]
    assert short["revoked_at"] > long["revoked_at"]
    await asyncio.sleep(0.5)
    for edge in (here, there):
        listed = [one for one in ask(edge).json()["revocations"] if one["sub"] == user]
        assert [(one["until"], one["revoked_at"]) for one in listed] == [(long["until"], short["revoked_at"])]


# ---- What an operator is told ----------------------------------------------------------------------------------


async def test_the_command_says_what_is_revoked(start, nodes):
    for edge, where in ((start(), "this"), (nodes[0], "all")):
        told = await revoke(edge, "--sub", "auth0|bøb *.>", "--for", "1h")
        assert (told["sub"], told["nodes"]) == ("auth0|bøb *.>", where)
        assert ask(edge).json()["count"] == 1


async def test_the_list_has_the_newest_first_and_metrics_count(start, room):
    edge = start()
    assert ask(edge).json() == {"count": 0, "revocations": []}
    token = edge.token("alice", jti="two")
    async with websocket(edge, token) as socket:
        for jti in ("one", "two"):
            await revoke(edge, "--jti", jti)
        await ended_as_revoked("ws", socket)
    await refused_soon(edge, "poll", token, room)
    listed = ask(edge).json()
    assert (listed["count"], [one["jti"] for one in listed["revocations"]]) == (2, ["two", "one"])
    counted = metrics(edge)
    assert (counted["tidegate_revocations"], counted["tidegate_revoked_total"]) == (2, 2)
    assert any("reason=revoked" in line or 'reason="revoked"' in line for line in edge.log if "WARN" in line)


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "{}", '{"sub": ""}', '{"sub": 7}', '{"sub": "guest-1"}', '{"sub": "a", "jti": "b"}',
        '{"jti": "a", "seconds": 0}', '{"jti": "a", "seconds": 2678401}', '{"jti": "a", "seconds": -1}',
        '{"jti": "a", "for": "1h"}', json.dumps({"jti": "a" * 257}), json.dumps({"sub": "a" * 129}),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused(edge, body):
    count = ask(edge).json()["count"]
    answer = ask(edge, "POST", body)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed")
    assert ask(edge).json()["count"] == count


async def test_a_page_and_an_endless_body_are_refused(edge):
    answer = ask(edge, "POST", {"sub": "alice"}, Origin=f"http://{edge.admin_address}")
    assert (answer.status_code, answer.json()["code"]) == (403, 4003)
    assert ask(edge, "POST", json.dumps({"sub": "a" * 5000})).status_code == 413
    assert ask(edge, "DELETE").status_code == 405


async def test_the_public_listener_revokes_nothing(edge):
    async with edge.http() as client:
        answer = await client.post("/revocations", json={"sub": "alice"}, headers=bearer(edge.token(role="server")))
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "arguments",
    [[], ["--sub", "a", "--jti", "b"], ["--sub", ""], ["--jti", "a", "--for", "24"], ["--jti", "a", "--for", "32days"]],
)
def test_wrong_usage_has_its_exit_code(edge, arguments):
    assert command(edge, *arguments).returncode == 2


def test_an_edge_that_is_not_there_is_a_failure(tmp_path):
    line = [str(find_binary()), "revoke", "--sub", "alice", "--admin", "127.0.0.1:1"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "cannot connect" in done.stderr


# ---- Over nodes ------------------------------------------------------------------------------------------------


async def test_a_node_that_starts_later_knows(nodes, start, bus, room):
    user = f"alice-{uuid.uuid4().hex}"
    token = nodes[0].token(user, **issued())
    await revoke(nodes[0], "--sub", user)
    late = start(bus=bus)
    await refused_soon(late, "poll", token, room)
    assert ask(late).json()["revocations"][0]["sub"] == user


async def test_a_node_that_restarts_knows(nodes, start, bus, room):
    user = f"alice-{uuid.uuid4().hex}"
    token = nodes[0].token(user, **issued())
    await revoke(nodes[0], "--sub", user)
    for node in nodes:
        node.kill()
    await refused_soon(start(bus=bus), "poll", token, room)


async def eventually(check, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def ready(edge) -> bool:
    return httpx.get(f"http://{edge.admin_address}/readyz", trust_env=False).status_code == 200


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_while_nats_is_away_nothing_is_revoked(nodes, nats, how, room):
    """The command fails and says why; connections stay; when NATS is back, revoking works, and on every node."""
    user = f"alice-{uuid.uuid4().hex}"
    token = nodes[0].token(user, **issued())
    async with subscribe(nodes[0], "ws", token, room) as here, subscribe(nodes[1], "ws", token, room) as there:
        nats.stop() if how == "stopped" else nats.pause()
        failed = await asyncio.to_thread(command, nodes[0], "--sub", user)
        assert failed.returncode == 1, failed.stdout
        assert "503" in failed.stderr and "not stored" in failed.stderr
        assert ask(nodes[0]).json()["count"] == 0
        for socket in (here, there):
            await socket.alive()
        nats.start() if how == "stopped" else nats.go_on()
        await eventually(lambda: ready(nodes[0]) and ready(nodes[1]))
        await revoke(nodes[0], "--sub", user)
        with at_once():
            await ended_as_revoked("ws", here)
        # It may still be on its way back to the bucket.
        assert (await there.closed(10)) == (4002, "revoked")


async def test_a_bucket_that_was_lost_is_made_again(nodes, nats, start, bus, room):
    """From what the nodes know: a store without its disk, or an operator's mistake."""
    user, other = (f"{name}-{uuid.uuid4().hex}" for name in ("alice", "bob"))
    token = nodes[0].token(user, **issued())
    await revoke(nodes[0], "--sub", user)
    nats.stop()
    shutil.rmtree(nats.folder / "store")
    nats.start()
    await eventually(lambda: all(ready(node) for node in nodes), 30)
    await asyncio.sleep(6)
    late = start(bus=bus)
    await refused_soon(late, "poll", token, room)
    await revoke(late, "--sub", other)
    await asyncio.sleep(WITHIN)
    for node in nodes:
        await refused_soon(node, "poll", node.token(other, **issued()), room)


async def test_with_the_permissions_of_a_node(start_nats, node, nats_version, room):
    """What deploy/nats grants is enough, with each version of NATS: to make the bucket, write, follow, read it later."""
    server = start_nats(**deployed(), version=nats_version)
    here, there = node(server), node(server)
    user = f"alice-{uuid.uuid4().hex}"
    token = here.token(user, **issued())
    one = there.remember(await ticket(here, here.token("bob")))
    async with subscribe(there, "ws", token, room) as socket, websocket(there, query={"ticket": one}) as bob:
        assert (await revoke(here, "--sub", user))["nodes"] == "all"
        await ended_as_revoked("ws", socket)
        assert (await revoke(there, "--sub", user, "--for", "2days"))["sub"] == user
        await bob.alive()
    late = node(server)
    await refused_soon(late, "poll", token, room)
    server.kill()
    await asyncio.to_thread(server.start)
    await eventually(lambda: ready(here) and ready(there))
    await revoke(there, "--sub", "bob")
    await asyncio.sleep(5)
    await refused_soon(here, "poll", here.token("bob", **issued(20)), room)
    assert not server.refused(), server.refused()


async def test_a_node_that_was_frozen_catches_up(nodes, room):
    here, there = nodes
    user = f"alice-{uuid.uuid4().hex}"
    async with subscribe(there, "ws", there.token(user, **issued()), room) as socket:
        there.signal(signal.SIGSTOP)
        try:
            await revoke(here, "--sub", user)
            await asyncio.sleep(8)  # longer than NATS waits before it lets go of it
        finally:
            there.signal(signal.SIGCONT)
        assert await socket.closed(10) == (4002, "revoked")


async def test_nodes_agree_after_many_at_once(nodes):
    """Through the admin listener of both, twice the same: all are on all nodes, each once."""

    def some(edge, numbers):
        for number in numbers:
            assert ask(edge, "POST", {"jti": f"token-{number}"}).status_code == 201

    await asyncio.gather(
        asyncio.to_thread(some, nodes[0], range(0, 60)), asyncio.to_thread(some, nodes[1], range(40, 100))
    )
    await asyncio.sleep(WITHIN)
    expected = {f"token-{number}" for number in range(100)}
    lists = [ask(node).json() for node in nodes]
    for listed in lists:
        assert (listed["count"], {one["jti"] for one in listed["revocations"]}) == (100, expected)
    spans = [{one["jti"]: (one["revoked_at"], one["until"]) for one in listed["revocations"]} for listed in lists]
    assert spans[0] == spans[1]


# ---- Tickets over nodes ----------------------------------------------------------------------------------------


async def ticket(edge, token: str) -> str:
    async with edge.http() as client:
        answer = await client.post("/v1/tickets", headers=bearer(token))
        assert answer.is_success, answer.text
        return edge.remember(answer.json()["ticket"])


async def test_a_ticket_opens_every_door_of_another_node_once(nodes, room):
    here, there = nodes
    for door in DOORS_OF_TICKETS:
        query = {"ticket": there.remember(await ticket(here, here.token("alice-t")))}
        if door == "ws":
            async with websocket(there, query=query) as socket:
                assert socket.established.payload["user_id"] == "alice-t"
        else:
            method, path, options = request_of(door, room)
            options["params"] = options.get("params", {}) | query
            async with there.http() as client, client.stream(method, path, **options) as answer:
                assert answer.is_success, (door, await answer.aread())
        for edge in nodes:
            told = await refusal(edge, door, query=query)
            assert (told.code, told.reason) == (4002, "authentication_failed"), door


async def test_a_ticket_has_its_grants_and_its_end_elsewhere(nodes, room):
    here, there = nodes
    token = here.token("alice", ttl=2, channels={"join": [f"{room}*"], "send": [room]}, info={"name": "Alice"})
    async with websocket(there, query={"ticket": there.remember(await ticket(here, token))}) as socket:
        joined = await socket.join(room, presence=True)
        assert joined.payload["presence"][0]["info"] == {"name": "Alice"}
        assert (await socket.refused("join_room", {"channel": "chat:other"}))["reason"] == "forbidden"
        assert (await socket.refused("message", {"channel": f"{room}x", "data": 1}))["reason"] == "forbidden"
        await socket.publish(room, 1)
        assert (await socket.closed())[0] == 4002


async def test_many_uses_on_both_nodes_are_one(nodes, room):
    one = await ticket(nodes[0], nodes[0].token())
    for node in nodes:
        node.remember(one)

    async def use(edge) -> int:
        async with edge.http() as client:
            return (await client.get("/v1/poll", params={"channels": room, "ticket": one})).status_code

    assert sorted(await asyncio.gather(*[use(nodes[number % 2]) for number in range(10)])) == [200] + [401] * 9


async def test_a_ticket_dies_with_its_node(nodes, room):
    one = nodes[1].remember(await ticket(nodes[0], nodes[0].token()))
    nodes[0].kill()
    began = time.monotonic()
    told = await refusal(nodes[1], "poll", query={"ticket": one})
    assert (told.code, told.reason) == (4002, "authentication_failed")
    assert time.monotonic() - began < 3


async def test_a_ticket_of_a_revoked_token_is_none(any_nodes, room):
    here, there = any_nodes
    user = f"alice-{uuid.uuid4().hex}"
    tickets = [await ticket(here, here.token(user, **issued())) for _ in range(2)]
    await revoke(there, "--sub", user)
    await asyncio.sleep(WITHIN / 2)
    for edge, one in zip((here, there), tickets, strict=True):
        told = await refusal(edge, "poll", query={"ticket": edge.remember(one)})
        assert (told.code, told.reason) == (4002, "revoked")


async def test_a_connection_by_another_nodes_ticket_can_be_revoked(nodes):
    here, there = nodes
    user, jti = f"alice-{uuid.uuid4().hex}", uuid.uuid4().hex
    for by, value in (("jti", jti), ("sub", user)):
        one = there.remember(await ticket(here, here.token(user, jti=jti if by == "jti" else None, **issued())))
        async with websocket(there, query={"ticket": one}) as socket:
            await revoke(here, f"--{by}", value)
            await ended_as_revoked("ws", socket)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_many_connections_and_one_of_them_is_meant(edge, transport, room):
    """Neither are the others closed, nor does the one wait for them."""
    meant = edge.token(f"alice-{uuid.uuid4().hex}", jti=(jti := uuid.uuid4().hex))
    async with asyncio.TaskGroup() as group:
        leave = asyncio.Event()
        arrived = asyncio.Semaphore(0)

        async def stay(number: int) -> None:
            async with websocket(edge, edge.token(f"user-{number}"), query={"channels": room}) as socket:
                arrived.release()
                await leave.wait()
                await socket.alive()

        for number in range(50):
            group.create_task(stay(number))
        for _ in range(50):
            await arrived.acquire()
        if transport == "poll":
            async with poller(edge, meant, room) as polls:
                query = {"channels": room, "cursor": (await polls.poll()).cursor}
                waiting = asyncio.create_task(polls.client.get("/v1/poll", params=query, headers=bearer(meant)))
                await asyncio.sleep(0.3)
                await revoke(edge, "--jti", jti)
                assert (await asyncio.wait_for(waiting, WITHIN)).status_code == 401
        else:
            async with subscribe(edge, transport, meant, room) as one:
                await revoke(edge, "--jti", jti)
                await ended_as_revoked(transport, one)
        leave.set()
