"""Envelopes as the protocol describes them. Whatever a test receives has been held against these schemas."""

import json
import re
import time
from datetime import datetime

from jsonschema import Draft202012Validator

UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
TIMESTAMP = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"

STRING = {"type": "string", "minLength": 1}
CHANNEL = {"type": "string", "pattern": r"^[A-Za-z0-9_.:@=/!-]{1,200}$"}
SEQ = {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**53}
BOOLEAN = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
CURSOR = {"type": "string", "pattern": r"^[A-Za-z0-9._~-]+$"}  # the unreserved characters of RFC 3986 §2.3


def fields(optional: dict | None = None, **required: dict) -> dict:
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


USER = fields({"info": {}}, user_id=STRING, connections={"type": "integer", "minimum": 1})
USERS = {"type": "array", "items": USER}
MESSAGE = fields(channel=CHANNEL, sender_id=STRING, data={}, epoch=STRING, seq=SEQ, prev=SEQ)
ERROR_CODES = [4000, 4001, 4002, 4003, 4004, 4005, 1012, 1013]
ERROR_OPTIONAL = {"retry_after_ms": {"type": "integer", "minimum": 1}, "limit": STRING, "channel": STRING}
ERROR = fields(
    ERROR_OPTIONAL, code={"enum": ERROR_CODES}, reason={"type": "string", "pattern": "^[a-z_]+$"}, detail=STRING
)

PAYLOADS = {
    "connection_established": fields(
        client_id={"type": "string", "pattern": UUID},
        user_id={"type": ["string", "null"], "minLength": 1},
        protocol={"const": "tidegate.v1"},
        heartbeat_ms={"type": "integer", "minimum": 1},
        limits={"type": "object"},
    ),
    "auth_response": fields(ok={"const": True}, user_id=STRING, expires_at={}),
    "room_joined": fields(
        {"presence": USERS}, channel=CHANNEL, epoch=STRING, seq=SEQ, cursor=CURSOR, recovered=BOOLEAN
    ),
    "room_left": fields(channel=CHANNEL),
    "message": MESSAGE,
    "message_ack": fields(channel=CHANNEL, epoch=STRING, seq=SEQ, duplicate=BOOLEAN),
    "typing_start": fields(channel=CHANNEL, user_id=STRING),
    "typing_stop": fields(channel=CHANNEL, user_id=STRING),
    "presence_state": fields(channel=CHANNEL, users=USERS, total=COUNT),
    "presence_update": fields({"info": {}}, channel=CHANNEL, user_id=STRING, online=BOOLEAN),
    "history_page": fields(channel=CHANNEL, epoch=STRING, messages={"type": "array"}, more=BOOLEAN),
    "pong": {"type": "object"},
    "gap": fields(
        channel=CHANNEL, epoch=STRING, seq=SEQ, reason={"enum": ["expired", "epoch_changed", "slow_consumer"]}
    ),
    "error": ERROR,
}

# RFC 9457: the error's fields beside its own.
PROBLEM = fields(
    ERROR_OPTIONAL | {"type": STRING, "instance": STRING},
    title=STRING,
    status={"type": "integer"},
    code={"enum": ERROR_CODES},
    reason=STRING,
    detail=STRING,
)

ENVELOPE = fields(
    type={"enum": list(PAYLOADS)},
    payload={"type": "object"},
    metadata=fields(
        {"correlation_id": {"type": "string"}, "client_id": {"type": "string", "pattern": UUID}},
        message_id={"type": "string", "minLength": 1, "maxLength": 64},
        timestamp={"type": "string", "pattern": TIMESTAMP},
    ),
)

# Made once: a validator checks its schema before anything else.
IS_ENVELOPE = Draft202012Validator(ENVELOPE)
IS_PAYLOAD = {type: Draft202012Validator(schema) for type, schema in PAYLOADS.items()}
IS_PROBLEM = Draft202012Validator(PROBLEM)


class Envelope(dict):
    """A checked envelope, with its bytes as they came and, on SSE, the event's `id`."""

    def __init__(self, raw: str, event_id: str | None = None):
        super().__init__(json.loads(raw))
        self.raw = raw
        self.event_id = event_id
        check(self)

    @property
    def type(self) -> str:
        return self["type"]

    @property
    def payload(self) -> dict:
        return self["payload"]

    @property
    def metadata(self) -> dict:
        return self["metadata"]

    @property
    def correlation_id(self) -> str | None:
        return self["metadata"].get("correlation_id")

    @property
    def data(self):
        return self["payload"]["data"]


def check(envelope: dict) -> None:
    IS_ENVELOPE.validate(envelope)
    IS_PAYLOAD[envelope["type"]].validate(envelope["payload"])
    metadata = envelope["metadata"]
    sent = datetime.fromisoformat(metadata["timestamp"]).timestamp()
    assert abs(time.time() - sent) < 600, f"timestamp {metadata['timestamp']} is not of this test run"
    if envelope["type"] == "message":
        # It has its sender's message_id and connection.
        assert envelope["payload"]["prev"] < envelope["payload"]["seq"], envelope
        assert "client_id" in metadata, envelope
    else:
        assert re.match(UUID, metadata["message_id"]), envelope


def check_problem(problem: dict) -> None:
    IS_PROBLEM.validate(problem)


def check_chain(messages: list[Envelope], prev: int | None = None) -> None:
    """Proves that nothing is missing and nothing came twice; `prev` is the position before the first."""
    for message in messages:
        assert message.type == "message", message
        if prev is not None:
            assert message.payload["prev"] == prev, f"after {prev}: {message.raw}"
        prev = message.payload["seq"]


def raw_items(text: str, key: str) -> list[str]:
    """The elements of the first array with that key, each as it is written in `text`."""
    at = re.compile(rf'"{key}"\s*:\s*\[').search(text).end()
    items, decoder = [], json.JSONDecoder()
    while True:
        at = re.compile(r"[\s,]*").match(text, at).end()
        if text[at] == "]":
            return items
        _, end = decoder.raw_decode(text, at)
        items.append(text[at:end])
        at = end
