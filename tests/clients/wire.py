"""Envelopes as clients see them. Whatever a test receives has been held against docs/envelope.schema.json."""

import json
import re
import time
from datetime import datetime

from documents import check_said


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
    check_said(envelope)
    # What a schema cannot say.
    metadata, payload = envelope["metadata"], envelope["payload"]
    sent = datetime.fromisoformat(metadata["timestamp"]).timestamp()
    assert abs(time.time() - sent) < 600, f"timestamp {metadata['timestamp']} is not of this test run"
    assert len(metadata.get("correlation_id", "").encode()) <= 256, envelope
    if envelope["type"] == "message":
        assert payload["prev"] < payload["seq"], envelope
        assert len(payload["sender_id"].encode()) <= 128, envelope
    if envelope["type"] == "history_page":
        for message in payload["messages"]:
            check(message)


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
