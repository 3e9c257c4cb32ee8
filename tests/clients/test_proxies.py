"""Edges behind what deploy/ puts in front of them: nothing of the wire may be lost on the way, and addresses stay true."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import InvalidMessage

from proxies import haproxy, nginx
from transports import TRANSPORTS, bearer, event_stream, publish, subscribe, websocket
from wire import check_chain


@pytest.fixture
def behind(tmp_path, start, certificate):
    """Starts edges and what stands in front of them, by its name."""
    started = []

    def behind(name: str, count: int = 1, **changes):
        proxied = {"proxy_protocol": True} if name == "haproxy" else {}
        listen = proxied | changes.pop("listen", {})
        edges = [start(listen=listen, **changes) for _ in range(count)]
        proxy = haproxy(tmp_path, edges) if name == "haproxy" else nginx(tmp_path, edges, certificate)
        started.append(proxy)
        return proxy, edges

    yield behind
    for proxy in started:
        proxy.stop()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_every_transport_gets_through_at_once(behind, room, name, transport):
    proxy, [edge] = behind(name)
    door = proxy.door(edge)
    async with subscribe(door, transport, edge.token(), room) as receiver:
        seen = []
        for number in range(5):
            # One at a time: a proxy that holds an event back until the next one comes is seen.
            await publish(door, edge.token("bob"), room, number)
            seen += await receiver.messages(1, timeout=2)
    check_chain(seen)
    assert [message.data for message in seen] == list(range(5))


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_http2_gets_through(behind, room, name):
    proxy, [edge] = behind(name)
    door = proxy.door(edge)
    async with event_stream(door, edge.token(), room, http2=True) as stream:
        await stream.until("room_joined")
        assert stream.response.http_version == "HTTP/2"
        await publish(door, edge.token("bob"), room, "x")
        await stream.messages(1, timeout=2)


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_a_quiet_websocket_and_compression_get_through(behind, room, name):
    proxy, [edge] = behind(name, heartbeat={"interval": "1s", "timeout": "1s"})
    async with websocket(proxy.door(edge), edge.token()) as socket:
        await socket.join(room)
        assert "permessage-deflate" in socket.connection.response.headers["Sec-WebSocket-Extensions"]
        # Two heartbeats, answered on the way back.
        await socket.nothing(2.5)
        long = "long " * 1000
        await socket.publish(room, long)
        assert (await socket.until("message")).data == long


async def test_nginx_leaves_no_token_in_its_log(behind, room):
    proxy, [edge] = behind("nginx")
    token = edge.token()
    async with websocket(proxy.door(edge), query={"token": token, "channels": room}) as socket:
        await socket.until("room_joined")
    deadline = time.monotonic() + 5
    while not (lines := [line for line in proxy.log if "/v1/ws" in line]) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert len(lines) == 1 and " 101 " in lines[0], proxy.log
    assert token.rpartition(".")[2] not in "\n".join(proxy.log)


async def test_a_batch_as_large_as_an_edge_takes_passes_nginx(behind, room):
    """100 envelopes that fill 16 times the default of limits.message_bytes."""
    proxy, [edge] = behind("nginx", limits={"message_bytes": 65536})
    data = "x" * 10000
    batch = [{"type": "message", "payload": {"channel": room, "data": data}} for _ in range(100)]
    async with proxy.door(edge).http() as client:
        answer = await client.post("/v1/send", content=json.dumps(batch), headers=bearer(edge.token()))
    assert answer.status_code == 200, answer.text
    assert [one["type"] for one in answer.json()] == ["message_ack"] * 100


async def test_an_edge_behind_haproxy_knows_each_client_by_its_own_address(behind):
    proxy, [edge] = behind("haproxy", quota={"connections_per_ip": 1})
    door = proxy.door(edge)
    async with (
        websocket(door, edge.token(), local_addr=("127.0.0.2", 0)),
        websocket(door, edge.token(), local_addr=("127.0.0.3", 0)) as other,
    ):
        await other.alive()
        with pytest.raises((AssertionError, InvalidMessage, OSError)):
            async with websocket(door, edge.token(), local_addr=("127.0.0.2", 0)):
                pass


async def test_haproxy_spreads_clients_and_sends_nobody_to_an_edge_that_drains_or_is_gone(behind, room):
    proxy, edges = behind("haproxy", count=3, listen={"drain": "6s"})
    door = proxy.door(edges[0])
    assert len(await epochs(door, room)) == 3
    # Drains: not ready any more. Gone: killed, without a word.
    edges[0].signal()
    edges[1].kill()
    await asyncio.sleep(3)
    assert len(await epochs(door, room)) == 1


async def epochs(door, room) -> set[str]:
    """Of six connections at once, where each edge has an epoch of its own."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(websocket(door, door.token())) for _ in range(6)]
        return {(await socket.join(room)).payload["epoch"] for socket in sockets}
