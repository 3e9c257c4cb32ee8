"""permessage-deflate (RFC 7692) as stock clients do it: each offers it by itself, and gets every message whole."""

import pytest

from transports import websocket

LONG = "tide and time wait for nobody, ø, 潮; " * 100


@pytest.mark.parametrize("data", ["short", LONG])
async def test_it_is_agreed_on_without_context(edge, room, data):
    async with websocket(edge, edge.token()) as socket:
        [extension] = socket.connection.protocol.extensions
        assert extension.name == "permessage-deflate"
        assert extension.local_no_context_takeover and extension.remote_no_context_takeover
        await socket.join(room)
        await socket.send("message", {"channel": room, "data": data})
        assert (await socket.expect("message")).payload["data"] == data


async def test_compressed_and_not_in_one_channel(edge, room):
    async with websocket(edge, edge.token()) as one, websocket(edge, edge.token(), compression=None) as other:
        assert not other.connection.protocol.extensions
        await one.join(room)
        await other.join(room)
        await other.send("message", {"channel": room, "data": LONG})
        assert (await one.expect("message")).raw == (await other.expect("message")).raw


async def test_off_by_configuration(start, room):
    edge = start(compression={"enabled": False})
    async with websocket(edge, edge.token()) as socket:
        assert not socket.connection.protocol.extensions
        await socket.join(room)
        await socket.publish(room, LONG)
        assert (await socket.expect("message")).payload["data"] == LONG
