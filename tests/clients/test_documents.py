"""The documents in docs/ are right: by their own validators, by their examples, and beside the server."""

import asyncio
import copy
import json
import re
import shutil
from pathlib import Path

import httpx
import jsonschema_rs
import openapi_spec_validator
import pytest
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from referencing.exceptions import Unresolvable

import test_bad_input
from documents import (
    ASKED,
    ASYNCAPI,
    DOCS,
    EVENTS,
    OPENAPI,
    PROBLEM,
    SAID,
    SCHEMA,
    accepts,
    by_type,
    check_exchange,
    check_said,
    definition,
    find_path,
    hold,
    resolve,
    tags_of,
    validator,
)
from edge import REPOSITORY, exchange_of
from transports import Event, bearer

HERE = Path(__file__).parent
DEFINITIONS = SCHEMA["$defs"]
METHODS = ("get", "head", "post", "put", "patch", "delete")
OPERATIONS = [(path, method) for path, item in OPENAPI["paths"].items() for method in item if method in METHODS]


def objects(node, place=()):
    """Every object in a document, with its place."""
    if isinstance(node, dict):
        yield place, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from objects(value, (*place, key))


def references(document) -> set[str]:
    found = {node["$ref"].rpartition("#")[2] for _, node in objects(document) if "$ref" in node}
    return {ref.removeprefix("/$defs/") for ref in found if ref.startswith("/$defs/")}


# ---- By their own validators ----


def test_the_schema_is_one():
    jsonschema_rs.meta.validate(SCHEMA)
    jsonschema_rs.Draft202012Validator(SCHEMA)


def test_the_schema_means_the_same_in_draft_07():
    """AsyncAPI reads it as draft-07, in which nothing beside a `$ref` counts and newer keywords say nothing."""
    words = {"type", "const", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMaximum"}
    words |= {"properties", "required", "additionalProperties", "items", "minItems", "maxItems"}
    words |= {"oneOf", "anyOf", "allOf", "not", "$ref", "description", "examples", "default"}
    for name, schema in DEFINITIONS.items():
        for place, node in schemas(schema):
            assert node.keys() <= words, (name, place)
            assert "$ref" not in node or node.keys() == {"$ref"}, (name, place)
        jsonschema_rs.Draft7Validator(schema | {"$defs": DEFINITIONS})
        for example in schema.get("examples", []):
            assert jsonschema_rs.Draft7Validator(schema | {"$defs": DEFINITIONS}).is_valid(example)


def schemas(schema, place=()):
    """A schema and those in it; what is named like a keyword but is a property's name is none."""
    yield place, schema
    inner = list(schema.get("properties", {}).items())
    inner += [(word, one) for word in ("oneOf", "anyOf", "allOf") for one in schema.get(word, [])]
    inner += [(word, schema[word]) for word in ("items", "not") if word in schema]
    for key, value in inner:
        yield from schemas(value, (*place, key))


def test_openapi_is_valid():
    openapi_spec_validator.validate(OPENAPI, base_uri=(DOCS / "openapi.yaml").as_uri())
    assert OPENAPI["openapi"].startswith("3.1.")


async def asyncapi(path: Path) -> dict:
    node = shutil.which("node")
    assert node, "node is missing: apt-get install nodejs"
    process = await asyncio.create_subprocess_exec(
        node, "asyncapi.mjs", str(path), cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_asyncapi_is_valid():
    assert await asyncapi(DOCS / "asyncapi.yaml") == {"version": ASYNCAPI["asyncapi"], "problems": []}
    assert ASYNCAPI["asyncapi"].startswith("3.")


async def test_the_validators_find_what_is_wrong(tmp_path):
    for file in DOCS.glob("*.*"):
        shutil.copy(file, tmp_path)
    wrong = tmp_path / "asyncapi.yaml"
    wrong.write_text(wrong.read_text().replace("$defs/ServerGap'", "$defs/ServerHole'"))
    assert (await asyncapi(wrong))["problems"]
    for change in lose_a_definition, give_a_name_twice, misspell_a_field:
        wrong = copy.deepcopy(OPENAPI)
        change(wrong["paths"]["/v1/poll"]["get"])
        with pytest.raises((OpenAPIValidationError, Unresolvable)):
            openapi_spec_validator.validate(wrong, base_uri=(DOCS / "openapi.yaml").as_uri())
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.meta.validate(SCHEMA | {"$defs": {"Seq": {"type": "number!"}}})


def lose_a_definition(operation: dict) -> None:
    operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"] += "s"


def give_a_name_twice(operation: dict) -> None:
    operation["operationId"] = "send"


def misspell_a_field(operation: dict) -> None:
    operation["responses"]["200"]["contents"] = operation["responses"]["200"].pop("content")


# ---- By each other ----


def test_every_definition_is_used_and_there():
    used = references(SCHEMA) | references(OPENAPI) | references(ASYNCAPI)
    assert used == DEFINITIONS.keys()


def test_asyncapi_has_every_envelope():
    messages = ASYNCAPI["components"]["messages"]
    payloads = [message["payload"]["$ref"].rpartition("/")[2] for message in messages.values()]
    assert sorted(payloads) == sorted([*SAID.values(), *ASKED.values()])
    for payload, message in zip(payloads, messages.values(), strict=True):
        assert DEFINITIONS[payload]["properties"]["type"]["const"] == message["name"]
    assert ASYNCAPI["channels"]["websocket"]["messages"].keys() == messages.keys()
    moved = set()
    for operation in ASYNCAPI["operations"].values():
        for message in [*operation["messages"], *operation.get("reply", {}).get("messages", [])]:
            moved.add(message["$ref"].rpartition("/")[2])
    assert moved == messages.keys(), "each is sent or received by some operation"


@pytest.mark.parametrize("name", [name for name, schema in DEFINITIONS.items() if "examples" in schema])
def test_examples_of_the_schema_are_valid(name):
    for example in DEFINITIONS[name]["examples"]:
        hold(definition(name), example, name)


@pytest.mark.parametrize("name", [*SAID.values(), *ASKED.values()])
def test_every_envelope_has_an_example(name):
    assert DEFINITIONS[name]["examples"]


def contents():
    """What in openapi.yaml has a schema and an example beside it: bodies, parameters and headers."""
    for place, node in objects(OPENAPI):
        if "schema" in node and ("example" in node or "examples" in node):
            values = [one["value"] for one in node["examples"].values()] if "examples" in node else [node["example"]]
            yield pytest.param(place, node["schema"], values, id="/".join(map(str, place)))


@pytest.mark.parametrize(("place", "schema", "values"), list(contents()))
def test_examples_of_openapi_are_valid(place, schema, values):
    for value in values:
        hold(validator(schema), value, "an example")
        if place[-1] == EVENTS:
            events = [Event.parse(block) for block in value.removesuffix("\n\n").split("\n\n")]
            envelopes = [json.loads(event.data) for event in events if event.data]
            assert len(envelopes) == 3
            for envelope in envelopes:
                check_said(envelope)
        if place[-1] == PROBLEM and place[0] == "paths":
            assert str(value["status"]) == place[place.index("responses") + 1]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_json_answer_has_an_example(path, method):
    for status, answer in OPENAPI["paths"][path][method]["responses"].items():
        for kind, content in resolve(answer).get("content", {}).items():
            assert not kind.endswith("json") or "example" in content or content["examples"], (status, kind)


# ---- Beside the server ----


async def methods_of(edge, path: str) -> set[str] | None:
    """What the server says a resource takes, `HEAD` and `OPTIONS` aside; `None` where there is none."""
    async with edge.http() as client:
        return allowed(await client.request("FROB", path, headers=bearer(edge.token())))


def admin_methods_of(edge, path: str) -> set[str] | None:
    answer = httpx.request("FROB", f"http://{edge.admin_address}{path}", trust_env=False)
    check_exchange(exchange_of(answer, answer.text), admin=True)
    return allowed(answer)


def allowed(answer: httpx.Response) -> set[str] | None:
    if answer.status_code == 404:
        return None
    assert answer.status_code == 405, answer.text
    # These two are described once for all resources.
    return {name.strip() for name in answer.headers["Allow"].split(",")} - {"HEAD", "OPTIONS"}


async def test_the_server_has_the_endpoints_of_openapi_with_their_methods(start):
    development, echoing = start(development=True), start(conformance={"echo": True})
    for path, item in OPENAPI["paths"].items():
        real = path.replace("{channel}", "chat%3Alobby").replace("{file}", "page.js")
        taken = {method.upper() for method in METHODS if method in item}
        demo, plain = await methods_of(development, real), await methods_of(echoing, real)
        if "servers" in item:
            assert (demo, plain, admin_methods_of(echoing, real)) == (None, None, taken), path
            continue
        assert admin_methods_of(echoing, real) is None, path
        if path == "/echo":
            assert (demo, plain) == (None, taken)
        elif "development" in tags_of(item):
            assert (demo, plain) == (taken, None), path
        else:
            assert (demo, plain) == (taken, taken), path


@pytest.mark.parametrize(
    ("file", "admin"), [("src/server/router.rs", False), ("src/demo/mod.rs", False), ("src/admin/page.rs", True)]
)
def test_openapi_has_the_endpoints_of_the_server(file, admin):
    """Every path that the server's routers know by name."""
    code = (REPOSITORY / file).read_text().partition("#[cfg(test)]")[0]
    code = "\n".join(line for line in code.splitlines() if not line.strip().startswith("//"))
    names = set(re.findall(r'"(/[^"\s]*)"', code))
    assert names
    for name in names:
        # Parts of a path with a name in it.
        whole = {"/v1/channels/": "/v1/channels/a/messages", "/messages": "/v1/channels/a/messages",
                 "/presence": "/v1/channels/a/presence"}.get(name, name)  # fmt: skip
        assert find_path(whole, admin), f"{file} knows {name}, openapi.yaml does not"


@pytest.mark.parametrize("text", test_bad_input.NOT_ENVELOPES, ids=lambda text: repr(text[:50]))
def test_the_schema_refuses_what_is_no_envelope(text):
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        return
    assert not accepts(envelope)


def test_the_schema_refuses_wrong_fields():
    for type in test_bad_input.CHANNEL_TYPES:
        for channel in test_bad_input.WRONG_CHANNELS:
            assert not accepts({"type": type, "payload": {"channel": channel, "data": 1}}), (type, channel)
    for type, payload in test_bad_input.WRONG_FIELDS:
        assert not accepts({"type": type, "payload": {"channel": "a"} | payload}), (type, payload)


def test_the_reasons_are_those_of_the_catalogue():
    catalogue = (REPOSITORY / "src/close.rs").read_text()
    reasons = catalogue.partition("pub const fn reason")[2].partition("pub const fn status")[0]
    known = re.findall(r'=> "(\w+)"', reasons)
    assert known and set(known) <= set(DEFINITIONS["ErrorReason"]["enum"])
    statuses = catalogue.partition("pub const fn status")[2].partition("pub const fn title")[0]
    assert {int(status) for status in re.findall(r"=> (\d{3})", statuses)} <= {
        row["properties"]["status"]["const"] for row in DEFINITIONS["Problem"]["oneOf"]
    }


def test_the_unions_name_each_type_once():
    for union in ("FromServer", "FromClient", "FromClientOverHttp"):
        assert len(by_type(union)) == len(DEFINITIONS[union]["oneOf"])
