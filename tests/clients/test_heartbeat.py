"""WebSocket pings: who answers lives, who does not is gone in time, and his user with him."""

import asyncio
import time
from contextlib import AsyncExitStack

from websockets.frames import Opcode

from transports import publish, websocket

BEAT = {"interval": "1s", "timeout": "500ms"}


async def test_who_answers_pings_lives(start):
    edge = start(heartbeat=BEAT)
    async with websocket(edge, edge.token()) as socket:
        assert socket.established.payload["heartbeat_ms"] == 1000
        await asyncio.sleep(3)
        await socket.alive()


async def test_who_does_not_is_gone(start, room):
    edge = start(heartbeat=BEAT)
    async with websocket(edge, edge.token("alice")) as alice, websocket(edge, edge.token("bob")) as bob:
        await alice.join(room, presence=True)
        await bob.join(room)
        await alice.until("presence_update", user_id="bob", online=True)
        bob.connection.transport.pause_reading()
        began = time.monotonic()
        # Interval and timeout, and the grace in which he could have come back.
        await alice.until("presence_update", user_id="bob", online=False, timeout=1 + 0.5 + 3 + 2)
        assert time.monotonic() - began > 2.5


async def test_a_message_beside_a_ping_does_not_wait_for_the_pong(start, room):
    """What is published when a ping is due, and has its turn with it."""
    edge = start(heartbeat={"interval": "3s", "timeout": "3s"})
    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(6):
            socket = await stack.enter_async_context(websocket(edge, edge.token()))
            sockets.append(socket)
            await socket.join(room)
            send = socket.connection.protocol.send_frame
            socket.connection.protocol.send_frame = (
                lambda frame, send=send: None if frame.opcode is Opcode.PONG else send(frame)
            )
            await asyncio.sleep(0.03)
        # The pings of all have been due since up to 0.2 s.
        await asyncio.sleep(3 - 6 * 0.03 + 0.12)
        await publish(edge, edge.token(), room, "now")
        for socket in sockets:
            await socket.until("message", timeout=0.9)


async def test_pings_of_the_client_are_answered(edge):
    async with websocket(edge, edge.token()) as socket:
        pong = await socket.connection.ping(b"are you there?")
        await asyncio.wait_for(pong, 2)


async def test_a_close_of_the_client_is_answered_with_its_code(edge):
    async with websocket(edge, edge.token()) as socket:
        await socket.connection.close(4321, "bye")
        assert socket.connection.close_code == 4321
