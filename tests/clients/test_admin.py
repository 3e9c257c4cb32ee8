"""The admin listener: metrics and health, apart from what clients reach."""

import asyncio
import re
import time

import pytest

from refusals import refusal
from transports import event_stream, poller, publish, websocket

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (\S+)$")


def metrics(edge) -> dict[str, float]:
    """Each name's samples, added up."""
    answer = edge.admin("/metrics")
    assert answer.status_code == 200
    totals: dict[str, float] = {}
    for line in answer.text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = SAMPLE.match(line).groups()
            totals[name] = totals.get(name, 0) + float(value)
    return totals


async def eventually(edge, name, value):
    deadline = time.monotonic() + 3
    while metrics(edge)[name] != value:
        assert time.monotonic() < deadline, f"{name} is {metrics(edge)[name]}, not {value}"
        await asyncio.sleep(0.05)


async def test_metrics_move_with_what_happens(start, room):
    edge = start()
    before = metrics(edge)
    assert before["websocket_connections_active"] == 0
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob")) as bob:
        await eventually(edge, "websocket_connections_active", 2)
        await alice.join(room)
        for number in range(10):
            await bob.publish(room, number)
        await alice.messages(10)
        after = metrics(edge)
        assert after["websocket_messages_received_total"] - before["websocket_messages_received_total"] >= 11
        # Ten messages and ten acks at least.
        assert after["websocket_messages_sent_total"] - before["websocket_messages_sent_total"] >= 20
    await eventually(edge, "websocket_connections_active", 0)


async def test_metrics_tell_transports_and_reasons_apart(start, room):
    edge = start()
    async with event_stream(edge, edge.token(), room) as stream, poller(edge, edge.token(), room) as polls:
        await stream.until("room_joined")
        await polls.poll()
        await refusal(edge, "poll", edge.token(ttl=-1))
        text = edge.admin("/metrics").text
        for transport in ("sse", "poll"):
            assert re.search(rf'^tidegate_\w+\{{[^}}]*transport="{transport}"[^}}]*\}} [1-9]', text, re.M), transport
        assert re.search(r'^tidegate_\w+\{[^}]*reason="authentication_failed"[^}]*\} [1-9]', text, re.M)


async def test_metrics_name_no_user_and_no_channel(start):
    edge = start()
    async with websocket(edge, edge.token("unmistakable-user")) as socket:
        await socket.join("chat:unmistakable-channel")
        await publish(edge, edge.token("unmistakable-user"), "chat:unmistakable-channel", 1)
        assert "unmistakable" not in edge.admin("/metrics").text


async def test_metrics_are_what_prometheus_reads(edge):
    answer = edge.admin("/metrics")
    assert re.match(r"(text/plain|application/openmetrics-text)", answer.headers["Content-Type"])
    for name in ("websocket_connections_active", "websocket_messages_sent", "websocket_messages_received"):
        assert re.search(rf"^# HELP {name}\w* \S", answer.text, re.M), name
        assert re.search(rf"^# TYPE {name}\w* (gauge|counter)$", answer.text, re.M), name


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_is_told(edge, path):
    assert edge.admin(path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/poll?channels=a", "/v1/ws", "/v1/send", "/", "/demo"])
async def test_the_admin_listener_serves_no_clients(edge, path):
    assert edge.admin(path).status_code in (404, 405) or path == "/"
    assert "room_joined" not in edge.admin(path).text


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/admin", "/debug"])
async def test_the_public_listener_tells_operators_nothing(edge, path):
    async with edge.http() as client:
        assert (await client.get(path)).status_code == 404
