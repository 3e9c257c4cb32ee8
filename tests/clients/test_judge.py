"""The documents are a strict judge, and what the clients of the tests see comes before it: the other tests rely on this."""

import json
from datetime import UTC, datetime

import httpx
import pytest

from documents import ASKED, SAID, SCHEMA, OffTheDocument, accepts, check_asked, definition
from edge import Edge
from traffic import check_file
from wire import Envelope

DEFINITIONS = SCHEMA["$defs"]


def example(name: str):
    return DEFINITIONS[name]["examples"][0]


def changes(value, schema):
    """An example with one thing wrong at a time, and what that is."""
    while "$ref" in schema:
        schema = DEFINITIONS[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        for index, item in enumerate(value):
            # Members of a union are here by themselves.
            for what, changed in [] if "oneOf" in schema["items"] else changes(item, schema["items"]):
                yield f"[{index}]{what}", value[:index] + [changed] + value[index + 1 :]
    if schema.get("type") != "object":
        yield " is an object", {"surprise": []}
        return
    yield " has more", value | {"surprise": 1}
    for name in schema.get("required", []):
        yield f" lacks {name}", {key: item for key, item in value.items() if key != name}
    for name, inner in schema.get("properties", {}).items():
        if name in value and name not in ("data", "info"):
            for what, changed in changes(value[name], inner):
                yield f".{name}{what}", value | {name: changed}


BODIES = ["PollResponse", "HistoryPagePayload", "PresenceStatePayload", "MessageAckPayload", "Ticket", "Problem"]


@pytest.mark.parametrize("name", [*SAID.values(), *BODIES])
def test_what_the_server_says_may_be_nothing_else(name):
    wrong = list(changes(example(name), DEFINITIONS[name]))
    assert len(wrong) > 3
    for what, changed in wrong:
        assert not definition(name).is_valid(changed), f"{name}{what} and is valid"


@pytest.mark.parametrize("name", ASKED.values())
def test_what_a_client_says_may_be_more(name):
    asked = example(name)
    more = asked | {"x": 1, "metadata": asked.get("metadata", {}) | {"x": 1, "timestamp": "now", "client_id": 7}}
    if "payload" in asked:
        more["payload"] = asked["payload"] | {"x": 1}
    assert accepts(more)


def test_an_envelope_off_the_schema_fails_its_test():
    metadata = example("ServerPong")["metadata"] | {"timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000Z"}
    right = example("ServerPong") | {"metadata": metadata}
    Envelope(json.dumps(right))
    for wrong in {"type": "pang"}, {"extra": 1}, {"payload": {"extra": 1}}, {"metadata": {}}:
        with pytest.raises(OffTheDocument):
            Envelope(json.dumps(right | wrong))


HEADERS = {"Cache-Control": "no-store", "Vary": "Origin"}
MESSAGES = "/v1/channels/a/messages"
ACK, PAGE, POLL, PROBLEM = map(example, ["MessageAckPayload", "HistoryPagePayload", "PollResponse", "Problem"])
NOT_FOUND = PROBLEM | {"status": 404, "reason": "not_found"}
NO_METHOD = PROBLEM | {"status": 405, "reason": "method_not_allowed"}
PROBLEM_TYPE = {"Content-Type": "application/problem+json"}

RIGHT = [
    ("POST", MESSAGES, httpx.Response(201, json=ACK, headers=HEADERS)),
    ("GET", f"{MESSAGES}?limit=1000", httpx.Response(200, json=PAGE, headers=HEADERS)),
    ("HEAD", MESSAGES, httpx.Response(200, headers=HEADERS | {"Content-Type": "application/json"})),
    ("GET", "/v1/poll?channels=a", httpx.Response(200, json=POLL, headers=HEADERS)),
    ("GET", "/v1/nothing", httpx.Response(404, json=NOT_FOUND, headers=PROBLEM_TYPE)),
    ("GET", "/v1/poll", httpx.Response(431)),
    ("PUT", "/v1/poll", httpx.Response(405, json=NO_METHOD, headers=PROBLEM_TYPE | {"Allow": "GET"})),
]
WRONG = {
    "body": ("POST", MESSAGES, httpx.Response(201, json=ACK | {"extra": 1}, headers=HEADERS)),
    "header": ("POST", MESSAGES, httpx.Response(201, json=ACK, headers={"Cache-Control": "no-store"})),
    "header's value": ("POST", MESSAGES, httpx.Response(201, json=ACK, headers=HEADERS | {"Cache-Control": "x"})),
    "status": ("POST", MESSAGES, httpx.Response(202, json=ACK, headers=HEADERS)),
    "type": ("POST", MESSAGES, httpx.Response(201, text=json.dumps(ACK), headers=HEADERS)),
    "parameter": ("GET", f"{MESSAGES}?limit=1001", httpx.Response(200, json=PAGE, headers=HEADERS)),
    "no parameter": ("GET", "/v1/poll", httpx.Response(200, json=POLL, headers=HEADERS)),
    "channel": ("GET", "/v1/channels/a%20b/messages", httpx.Response(200, json=PAGE, headers=HEADERS)),
    "HEAD with a body": ("HEAD", MESSAGES, httpx.Response(200, json=PAGE, headers=HEADERS)),
    "path": ("GET", "/v1/nothing", httpx.Response(200, json={})),
    "path of the other listener": ("GET", "/livez", httpx.Response(200, text="ok", headers=HEADERS)),
    "problem": ("GET", "/v1/nothing", httpx.Response(404, json=PROBLEM, headers=PROBLEM_TYPE)),
    "431 with a body": ("GET", "/v1/poll", httpx.Response(431, text="too long")),
    "no Allow": ("PUT", "/v1/poll", httpx.Response(405, json=NO_METHOD, headers=PROBLEM_TYPE)),
}


async def request(edge: Edge, method: str, path: str, answer: httpx.Response) -> None:
    async with edge.http(transport=httpx.MockTransport(lambda _: answer)) as client:
        await client.request(method, path)


@pytest.mark.parametrize(("method", "path", "answer"), RIGHT)
async def test_an_answer_as_documented_passes(edge, method, path, answer):
    await request(edge, method, path, answer)


@pytest.mark.parametrize(("method", "path", "answer"), WRONG.values(), ids=list(WRONG))
async def test_an_answer_off_the_document_fails_its_test(edge, method, path, answer):
    with pytest.raises(OffTheDocument):
        await request(edge, method, path, answer)


def test_what_is_asked_is_judged_by_its_answer():
    ping, nonsense = {"type": "ping"}, {"type": "nonsense"}
    pong, refusal = example("ServerPong"), example("ServerError")
    check_asked(ping, pong)
    check_asked(nonsense, refusal)
    for asked, answer in (ping, refusal), (nonsense, pong):
        with pytest.raises(OffTheDocument):
            check_asked(asked, answer)


def test_recorded_traffic_is_judged_line_by_line(tmp_path):
    file = tmp_path / "1.jsonl"
    pong = example("ServerPong")
    wrong = {"method": "GET", "target": "/v1/poll", "status": 200, "content_type": "application/json", "body": "{}"}
    said, asked = [{"said": pong}, {"said": pong | {"x": 1}}], [{"asked": {"type": "ping"}}, {"asked": {}}]
    file.write_text("\n".join(map(json.dumps, [*said, *asked, {"exchange": wrong}])) + "\n{")
    seen, problems = check_file(file)
    assert seen == {"said pong": 1, "asked ping": 1}
    assert [problem.split(":")[1] for problem in problems] == ["2", "4", "5", "6"]
