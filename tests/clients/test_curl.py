"""curl, as the documentation shows it."""

import asyncio
import json
import shutil

import pytest

from documents import Exchange, check_exchange
from transports import messages_of, publish, websocket
from wire import Envelope

CURL = shutil.which("curl")


async def curl(edge, *arguments, token=None) -> str:
    return (await curl_with_status(edge, *arguments, token=token))[1]


async def curl_with_status(edge, *arguments, token=None) -> tuple[int, str]:
    told = "\n%{method} %{url_effective} %{http_code} %{content_type}"
    process = await start_curl(edge, "-w", told, *arguments, token=token)
    out, err = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0, err.decode()
    body, _, told = out.decode().rpartition("\n")
    method, url, status, kind = told.split(" ", 3)
    check_exchange(Exchange(method, url.removeprefix(edge.url()), int(status), kind, body=body))
    return int(status), body


async def start_curl(edge, *arguments, token=None):
    assert CURL, "curl is missing: apt-get install curl"
    headers = ["-H", f"Authorization: Bearer {token or edge.token()}"]
    command = [CURL, "-sSN", "--max-time", "20", "--cacert", str(edge.certificate.cert), "--noproxy", "*"]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, *headers, *arguments, stdout=pipe, stderr=pipe)


VERSIONS = ["--http1.0", "--http1.1", "--http2"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_curl_reads_a_stream_line_by_line(edge, room, version):
    process = await start_curl(edge, version, edge.url(f"/v1/sse?channels={room}"))
    try:
        lines = []

        async def read_until(word):
            while not lines or word not in lines[-1]:
                line = (await asyncio.wait_for(process.stdout.readline(), 5)).decode()
                assert line, (await process.stderr.read()).decode()
                lines.append(line)

        await read_until("room_joined")
        assert lines[0].startswith("retry:")
        await publish(edge, edge.token("bob"), room, "to curl")
        await read_until("to curl")
        message = Envelope(next(line for line in lines if "to curl" in line).removeprefix("data:").strip())
        assert message.data == "to curl"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("version", VERSIONS)
async def test_curl_polls_and_publishes(edge, room, version):
    first = json.loads(await curl(edge, version, edge.url(f"/v1/poll?channels={room}")))
    assert [e["type"] for e in first["messages"]] == ["room_joined"]
    ack = json.loads(await curl(edge, version, "--json", '{"text":"hi"}', edge.url(messages_of(room))))
    second = json.loads(await curl(edge, version, edge.url(f"/v1/poll?channels={room}&cursor={first['cursor']}")))
    assert [(e["payload"]["data"], e["payload"]["seq"]) for e in second["messages"]] == [({"text": "hi"}, ack["seq"])]


async def test_curls_form_type_does_not_matter(edge, room):
    """`curl -d` says application/x-www-form-urlencoded."""
    async with websocket(edge, edge.token()) as socket:
        await socket.join(room)
        await curl(edge, "-d", "[1,2]", edge.url(messages_of(room)))
        assert (await socket.expect("message")).data == [1, 2]


async def test_curl_sends_a_large_body_after_100_continue(start, room):
    edge = start(limits={"message_bytes": 100_000})
    body = json.dumps("x" * 90_000)
    arguments = ["--http1.1", "-H", "Expect: 100-continue", "--json", body, edge.url(messages_of(room))]
    assert json.loads(await curl(edge, *arguments))["duplicate"] is False


@pytest.mark.parametrize("length", [["-H", "Transfer-Encoding: chunked"], []])
async def test_curl_is_told_early_that_its_upload_is_too_large(edge, room, tmp_path, length):
    """A server that just closes leaves its client with a broken pipe and no reason (RFC 9112 §9.6)."""
    file = tmp_path / "large"
    file.write_bytes(b"x" * 20_000_000)
    arguments = ["--http1.1", "-X", "POST", "-H", "Expect:", *length, "-T", str(file), edge.url(messages_of(room))]
    assert json.loads(await curl(edge, *arguments))["code"] == 4005


async def test_curl_is_told_of_a_refusal_with_its_status(edge, room):
    status, body = await curl_with_status(edge, edge.url(f"/v1/poll?channels={room}"), token=edge.token(ttl=-1))
    assert status == 401
    assert json.loads(body)["code"] == 4002


@pytest.mark.parametrize("size", [10, 70_000, 900_000])
async def test_curl_is_told_why_over_http2_though_it_still_sends(edge, room, tmp_path, size):
    """A stream that is reset with its body unread takes the answer with it, in curl (RFC 9113 §8.1)."""
    file = tmp_path / "body"
    file.write_text(json.dumps("x" * size))
    arguments = ["--http2", "--json", f"@{file}", edge.url(messages_of(room))]
    for _ in range(10):
        status, body = await curl_with_status(edge, *arguments, token=edge.token(ttl=-1))
        assert (status, json.loads(body)["code"]) == (401, 4002)
