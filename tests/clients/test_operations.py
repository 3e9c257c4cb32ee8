"""What an operator does to a running server: renews its certificate and keys, puts a proxy in front, runs out of room."""

import asyncio
import json
import resource
import socket
import ssl
import struct
import time

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge import Certificate

pytestmark = pytest.mark.anyio


def served_certificate(edge) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", edge.port), 5) as tcp, context.wrap_socket(tcp) as tls:
        return tls.getpeercert(binary_form=True)


def until(condition, seconds: float = 10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.1)


async def test_a_renewed_certificate_is_served_without_a_restart(start, tmp_path):
    mine = Certificate(tmp_path)
    edge = start(tls={"cert": str(mine.cert), "key": str(mine.key)})
    first = served_certificate(edge)

    # Half a renewal, certificate without key, must not take the old one away.
    (tmp_path / "next").mkdir()
    renewed = Certificate(tmp_path / "next")
    mine.cert.write_bytes(renewed.cert.read_bytes())
    until(lambda: any("the certificate in use stays" in line for line in edge.log))
    assert served_certificate(edge) == first

    mine.key.write_bytes(renewed.key.read_bytes())
    until(lambda: served_certificate(edge) != first)


async def test_a_new_token_key_counts_without_a_restart(start, tmp_path):
    def key_set(*keys: tuple[str, ec.EllipticCurvePrivateKey]) -> str:
        public = [jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} for kid, key in keys]
        return json.dumps({"keys": public})

    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    jwks = tmp_path / "jwks.json"
    jwks.write_text(key_set(("old", old)))
    edge = start(auth={"jwks_file": str(jwks)})

    async def status(kid: str, key) -> int:
        token = edge.sign(edge.claims(), key, "ES256", kid=kid)
        async with edge.http() as http:
            headers = {"Authorization": f"Bearer {token}"}
            return (await http.get("/v1/channels/chat:a/messages", headers=headers)).status_code

    assert (await status("old", old), await status("new", new)) == (200, 401)
    jwks.write_text("{ this is no key set")
    until(lambda: any("token keys in use stay" in line for line in edge.log))
    assert await status("old", old) == 200
    jwks.write_text(key_set(("new", new)))
    until(lambda: any("token keys reloaded" in line for line in edge.log))
    assert (await status("old", old), await status("new", new)) == (401, 200)


PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n",
        PROXY_V2 + b"\x21\x11" + struct.pack(">H", 12) + bytes([192, 0, 2, 7, 192, 0, 2, 1]) + struct.pack(">HH", 5000, 443),
    ],
    ids=["version 1", "version 2"],
)
async def test_a_load_balancer_says_whose_address_it_is(start, header):
    edge = start(listen={"proxy_protocol": True}, tls={"enabled": False}, quota={"connections_per_ip": 1})

    def get(path: bytes, header: bytes) -> bytes:
        """The beginning of the answer; nothing if there is none."""
        tcp = socket.create_connection(("127.0.0.1", edge.port), 5)
        held.append(tcp)
        tcp.sendall(header + b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            return tcp.recv(1000)
        except ConnectionResetError:
            return b""

    held: list[socket.socket] = []
    poll = b"/v1/poll?channels=chat:a"
    try:
        assert b" 404 " in get(b"/v1/nothing", header)
        # The second of the same address is over its quota, another address is not.
        assert b" 429 " in get(poll, header)
        assert b" 401 " in get(poll, b"PROXY TCP4 192.0.2.8 192.0.2.1 5000 443\r\n")
        # Who comes past the load balancer is not served.
        assert get(poll, b"") == b""
    finally:
        for tcp in held:
            tcp.close()


async def test_out_of_connections_is_said_and_survived(start):
    edge = start(listen={"max_connections": 4}, tls={"enabled": False}, auth={"mode": "optional"})
    url = f"http://{edge.address}/v1/channels/open:a/messages"
    held = [socket.create_connection(("127.0.0.1", edge.port), 5) for _ in range(4)]
    try:
        await asyncio.sleep(0.3)
        refused = httpx.get(url, trust_env=False)
        assert refused.status_code == 503
        assert refused.json()["limit"] == "listen.max_connections"
        assert int(refused.headers["retry-after"]) > 0
    finally:
        for tcp in held:
            tcp.close()
    until(lambda: httpx.get(url, trust_env=False).status_code == 200)


async def test_out_of_descriptors_ends_nothing(start):
    edge = start(tls={"enabled": False}, auth={"mode": "optional"})
    resource.prlimit(edge.process.pid, resource.RLIMIT_NOFILE, (40, 40))
    held: list[socket.socket] = []
    try:
        for _ in range(60):
            held.append(socket.create_connection(("127.0.0.1", edge.port), 5))
        until(lambda: any("accept failed" in line for line in edge.log))
    finally:
        for tcp in held:
            tcp.close()
    url = f"http://{edge.address}/v1/channels/open:a/messages"
    until(lambda: answers(url))


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
