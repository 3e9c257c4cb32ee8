"""A way to the server that a test can cut: what a network does to clients, without the server's knowledge or consent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge import Edge
from transports import publish

MESSAGES = 30

class Forwarder:
    """Bytes in both directions, TLS and all."""

    def __init__(self, edge: Edge):
        self.edge = edge
        self.address = ""
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Resets all that goes through it, in the middle of whatever is on its way."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        host, _, port = self.edge.address.rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        pair = {writer, there_writer}
        self._writers |= pair
        try:
            await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))
        except OSError:
            pass
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def forwarder(edge: Edge) -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(edge)
    server = await asyncio.start_server(forwarder.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    forwarder.address = f"{host}:{port}"
    try:
        yield forwarder
    finally:
        server.close()
        forwarder.cut()


async def cut_now_and_then(edge: Edge, room: str, road: Forwarder, arrived) -> None:
    """Publishes 0 to `MESSAGES` and cuts three times: on the way, after all has `arrived`, and on the way again.
    Half of the messages come while nobody is there."""
    for first in range(0, MESSAGES, 10):
        await publish(edge, edge.token("bob"), room, *range(first, first + 5))
        if first == 10:
            await arrived(first + 5)
        road.cut()
        await publish(edge, edge.token("bob"), room, *range(first + 5, first + 10))
        await arrived(first + 10)
