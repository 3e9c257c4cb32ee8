#!/usr/bin/env python3
"""The same as publish.py without a library, over a socket: all that a backend in any language needs of the protocol of NATS.

    publish_by_hand.py shop.orders.17 '{"state": "paid"}' nats://shop:PASSWORD@127.0.0.1:4222

One connection, one message, one acknowledgement, which it prints. `--id` as third option tells a repetition from a new event.
"""

import json
import secrets
import socket
import ssl
import sys
import time
import urllib.parse

GIVE_UP = 30.0  # seconds; well below the two minutes for which JetStream knows an id again
ANSWER = 2.0


class Refused(Exception):
    """The server says no, and would again."""


class Nats:
    """A connection after its greeting: INFO from the server, CONNECT from us, and a PONG as its yes."""

    def __init__(self, url: str):
        where = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port or 4222), ANSWER)
        greeting = self.socket.makefile("rb").readline()
        if not greeting.startswith(b"INFO "):
            raise OSError(f"this is no NATS server: {greeting[:40]!r}")
        if where.scheme == "tls" or json.loads(greeting[5:]).get("tls_required"):
            # The greeting is in the clear, everything after it is not. SSL_CERT_FILE names another CA.
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=where.hostname)
        self.lines = self.socket.makefile("rb")
        # Without `verbose` there is no +OK per line; `no_responders` is an answer at once where nobody takes the subject.
        connect = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "by hand"}
        if where.password is not None:
            connect |= {"user": urllib.parse.unquote(where.username), "pass": urllib.parse.unquote(where.password)}
        elif where.username:
            connect["auth_token"] = urllib.parse.unquote(where.username)
        self.socket.sendall(b"CONNECT " + json.dumps(connect).encode() + b"\r\nPING\r\n")
        self.line(b"PONG")

    def line(self, *wanted: bytes) -> bytes:
        """The next line with one of these words at its head. A server that asks whether we are there gets an answer."""
        while True:
            line = self.lines.readline()
            if not line.endswith(b"\r\n"):
                raise OSError("the connection is lost")
            word = line.split(None, 1)[0].upper()
            if word in wanted:
                return line[:-2]
            if word == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif word == b"-ERR":
                # 'Authorization Violation', 'Permissions Violation for Publish to "…"'
                raise Refused(line[4:].strip().decode())

    def request(self, subject: str, headers: dict[str, str], body: bytes) -> tuple[str, bytes]:
        """Publishes with a subject to answer to. The answer's status (empty for a message without) and body."""
        inbox = f"_INBOX.shop.{secrets.token_hex(11)}"
        # Version line, fields, blank line; its length and that of all stand before it.
        head = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        sizes = f"{len(head.encode())} {len(head.encode()) + len(body)}"
        self.socket.sendall(f"SUB {inbox} 1\r\nHPUB {subject} {inbox} {sizes}\r\n{head}".encode() + body + b"\r\n")
        # MSG subject sid [reply] size, or HMSG subject sid [reply] head-size size
        verb, *_, size = self.line(b"MSG", b"HMSG").split()
        content = self.lines.read(int(size) + 2)[:-2]
        if verb == b"MSG":
            return "", content
        head, _, content = content.partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0].removeprefix(b"NATS/1.0").strip().decode(), content


def publish(url: str, subject: str, body: bytes, message_id: str) -> dict:
    """Repeats with the same id, over a new connection each time, until it is acknowledged."""
    deadline, pause = time.monotonic() + GIVE_UP, 0.1
    while True:
        try:
            nats = Nats(url)
            with nats.socket:
                status, answer = nats.request(subject, {"Nats-Msg-Id": message_id}, body)
            ack = json.loads(answer) if answer else {"error": {"description": f"status {status}: no stream"}}
            if "error" not in ack:
                return ack
            # 400 to 499, but for "duplicate message id is in process": it would be the same the next time.
            code, number = ack["error"].get("code", 503), ack["error"].get("err_code")
            if 400 <= code < 500 and number != 10158:
                raise Refused(ack["error"]["description"])
            reason = ack["error"]["description"]
        except OSError as error:
            reason = error
        if time.monotonic() + pause > deadline:
            raise OSError(f"given up: {reason}")
        print(f"not acknowledged yet: {reason}", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, 2)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 6) or (len(sys.argv) == 6 and sys.argv[4] != "--id"):
        sys.exit(__doc__)
    subject, body, url = sys.argv[1:4]
    json.loads(body)
    if not subject or any(not character.isprintable() or character == " " for character in subject):
        sys.exit("a subject has no blanks")
    try:
        print(json.dumps(publish(url, subject, body.encode(), sys.argv[5] if len(sys.argv) == 6 else secrets.token_hex(16))))
    except (OSError, Refused) as error:
        sys.exit(f"not acknowledged: {error}")
