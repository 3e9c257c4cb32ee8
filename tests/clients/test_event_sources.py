"""Stock event sources from npm and PyPI: cut off they come back to their place, refused for good they stay away.

A page's own is in test_browser.py.
"""

import asyncio
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from httpx_sse import aconnect_sse

from forwarder import MESSAGES, cut_now_and_then, forwarder
from transports import bearer

HERE = Path(__file__).parent


async def from_npm(edge, url: str, token: str) -> asyncio.subprocess.Process:
    node = shutil.which("node")
    assert node, "node is missing: apt-get install nodejs"
    assert (HERE / "node_modules" / "eventsource").is_dir(), f"`eventsource` is missing: npm ci --prefix {HERE}"
    environment = os.environ | {"URL": url, "TOKEN": token, "NODE_EXTRA_CA_CERTS": str(edge.certificate.cert)}
    return await asyncio.create_subprocess_exec(
        node, "event_source.mjs", cwd=HERE, env=environment, stdout=asyncio.subprocess.PIPE
    )


async def test_the_one_from_npm_comes_back_to_its_place(edge, room):
    async with forwarder(edge) as road:
        url = f"https://{road.address}/v1/sse?channels={room}&history=5"
        process = await from_npm(edge, url, edge.token())
        joined, got = 0, []

        async def read():
            nonlocal joined
            async for line in process.stdout:
                envelope = json.loads(line)
                joined += envelope["type"] == "room_joined"
                if envelope["type"] == "message":
                    got.append(envelope["payload"]["data"])

        reading = asyncio.create_task(read())
        try:
            await until(lambda: joined == 1)
            await cut_now_and_then(edge, room, road, lambda count: until(lambda: len(got) >= count))
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await reading
        assert got == list(range(MESSAGES))
        assert joined == 4


async def test_the_one_from_pypi_comes_back_to_its_place(edge, room):
    got: list[int] = []
    ids: list[str] = []
    joined = 0

    async def listen(url: str):
        """As httpx-sse's own documentation reconnects: with the last id, after what `retry` says."""
        nonlocal joined
        last, retry = "", 0.1
        while True:
            headers = bearer(edge.token()) | ({"Last-Event-ID": last} if last else {})
            with suppress(httpx.TransportError):
                async with (
                    httpx.AsyncClient(verify=edge.certificate.trust, trust_env=False) as client,
                    aconnect_sse(client, "GET", url, headers=headers) as source,
                ):
                    async for event in source.aiter_sse():
                        assert event.event == "message"
                        last = event.id or last
                        retry = retry if event.retry is None else event.retry / 1000
                        if not event.data:
                            continue
                        envelope = json.loads(event.data)
                        joined += envelope["type"] == "room_joined"
                        if envelope["type"] == "message":
                            got.append(envelope["payload"]["data"])
                            ids.append(event.id)
            await asyncio.sleep(retry)

    async with forwarder(edge) as road:
        listening = asyncio.create_task(listen(f"https://{road.address}/v1/sse?channels={room}&history=5"))
        try:
            await until(lambda: joined == 1)
            await cut_now_and_then(edge, room, road, lambda count: until(lambda: len(got) >= count))
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
    assert got == list(range(MESSAGES))
    assert len(set(ids)) == MESSAGES
    assert joined == 4


@pytest.mark.parametrize(("ttl", "query", "status"), [(-1, "?channels=chat:a", 401), (600, "", 400)])
async def test_the_one_from_npm_gives_up_when_it_is_refused_for_good(edge, ttl, query, status):
    process = await from_npm(edge, edge.url(f"/v1/sse{query}"), edge.token(ttl=ttl))
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 15)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert json.loads(out) == {"type": "closed", "code": status}


async def until(condition, seconds: float = 20) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
