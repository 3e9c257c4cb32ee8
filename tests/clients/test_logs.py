"""What the server writes: nothing secret at any level, and one line to audit for each failed authentication."""

import asyncio
import json
import re

import pytest

from edge import Edge
from refusals import refusal
from transports import SUBPROTOCOL, bearer, event_stream, publish, websocket


@pytest.mark.parametrize("log", [{"format": "text", "level": "trace"}, {"format": "json", "level": "trace"}])
async def test_no_secret_is_written_at_any_level(start, room, log):
    """`stop` looks for every token and ticket of the test in all that was written."""
    edge = start(log=log)
    async with edge.http() as client:
        answer = await client.post("/v1/tickets", headers=bearer(edge.token()))
        first = edge.remember(answer.json()["ticket"])
        second = edge.remember((await client.post("/v1/tickets", headers=bearer(edge.token()))).json()["ticket"])
    async with websocket(edge, query={"ticket": first}) as socket:
        await socket.join(room)
        await socket.ask("auth", {"token": edge.token()})
    async with websocket(edge, query={"token": edge.token()}) as socket:
        await socket.send_text('{"type":"auth","payload":{"token":"%s"' % edge.token())
        await socket.expect("error")
    async with websocket(edge, subprotocols=[SUBPROTOCOL, f"tidegate.bearer.{edge.token()}"]) as socket:
        await socket.alive()
    async with event_stream(edge, channels=room, ticket=second, http2=True) as stream:
        await stream.until("room_joined")
    for door in ("ws", "sse", "poll", "send"):
        await refusal(edge, door, query={"token": edge.token(ttl=-1)})
        await refusal(edge, door, query={"ticket": second})
    await publish(edge, edge.token(), room, "x")


@pytest.mark.parametrize("door", ["ws", "sse", "poll", "send"])
async def test_a_failed_authentication_is_one_line_of_warning(start, door):
    edge = start(log={"level": "warn,tidegate=info"})
    before = len(warnings(edge))
    await refusal(edge, door, edge.token(ttl=-1))
    await asyncio.sleep(0.3)
    lines = warnings(edge)[before:]
    assert len(lines) == 1, lines
    assert "expired" in lines[0].lower(), "with the reason"


async def test_what_else_clients_do_wrong_is_no_warning(start, room):
    edge = start(log={"level": "info"})
    before = len(warnings(edge))
    async with websocket(edge, edge.token(channels={})) as socket:
        await socket.send_text("{")
        await socket.send("nonsense")
        await socket.refused("join_room", {"channel": room})
    await refusal(edge, "poll", edge.token(), headers={"Origin": "https://evil.example.com"})
    await asyncio.sleep(0.3)
    assert warnings(edge)[before:] == []


async def test_json_lines_are_json(start, room):
    edge = start(log={"format": "json", "level": "debug"})
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
    edge.stop()
    assert len(edge.log) > 2
    for line in edge.log:
        assert {"timestamp", "level"} <= json.loads(line).keys(), line


async def test_development_mode_says_so_loudly(start):
    edge = start(development=True)
    assert any("development" in line.lower() and re.search(r"\bWARN\b", line) for line in edge.log), edge.log


@pytest.mark.parametrize(
    "line", ["thread 'main' panicked at src/x.rs:1:1", "query=token=eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl"]
)
def test_a_leak_or_a_panic_would_be_found(line):
    edge = Edge.__new__(Edge)
    edge.secrets, edge.log = {"eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl"}, ["all is well"]
    edge.check_log()
    edge.log.append(line)
    with pytest.raises(AssertionError):
        edge.check_log()


def warnings(edge) -> list[str]:
    return [line for line in edge.log if re.search(r"\b(WARN|ERROR)\b", line)]
