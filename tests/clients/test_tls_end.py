"""How a WebSocket ends below its own close handshake."""

import asyncio
import base64
import os
import socket

from transports import bearer


def handshake(edge) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    fields = {
        "Host": edge.address,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    } | bearer(edge.token())
    return ("GET /v1/ws HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n").encode()


async def test_who_ends_tls_without_a_close_is_answered_with_the_end_of_tls(edge):
    """RFC 8446 §6.1: close_notify is sent by both; unwrap() fails without the server's."""

    def run():
        host, port = edge.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as tcp:
            tls = edge.certificate.trust.wrap_socket(tcp, server_hostname="localhost")
            tls.sendall(handshake(edge))
            head = b""
            while b"connection_established" not in head:
                head += tls.recv(4096)
            assert head.startswith(b"HTTP/1.1 101")
            tls.unwrap()

    await asyncio.to_thread(run)
