"""docs/envelope.schema.json and docs/openapi.yaml as a judge: whatever a client of these tests is told is held to them.

`check_said` takes what the server says, `accepts` what a client does, `check_exchange` an HTTP answer with its request.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml
from jsonschema_rs import Draft202012Validator, ValidationError

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "envelope.schema.json").read_text())
OPENAPI = yaml.safe_load((DOCS / "openapi.yaml").read_text())
ASYNCAPI = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
SCHEMA_FILE = "envelope.schema.json"

PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"
# Without a body and a type: what becomes of a request whose head could not be read.
BARE = {400, 414, 431}


class OffTheDocument(AssertionError):
    """Something on the wire is not as the documents say."""


# ---- Schemas -------------------------------------------------------------------------------------------------


def validator(schema) -> Draft202012Validator:
    """Of a schema in whichever of the documents: references go into the one file that has definitions."""
    return _compiled(json.dumps(schema, sort_keys=True).replace(f'"{SCHEMA_FILE}#', '"#'))


@functools.cache
def _compiled(text: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(text) | {"$schema": SCHEMA["$schema"], "$defs": SCHEMA["$defs"]})


def definition(name: str) -> Draft202012Validator:
    assert name in SCHEMA["$defs"], name
    return validator({"$ref": f"#/$defs/{name}"})


def by_type(union: str) -> dict[str, str]:
    """The definitions that a union names, by the envelope's type: an error then tells of one, not of all."""
    names = [choice["$ref"].rpartition("/")[2] for choice in SCHEMA["$defs"][union]["oneOf"]]
    return {SCHEMA["$defs"][name]["properties"]["type"]["const"]: name for name in names}


SAID = by_type("FromServer")
ASKED = by_type("FromClient")


def hold(checked: Draft202012Validator, value, what: str) -> None:
    try:
        checked.validate(value)
    except ValidationError as error:
        at = "/".join(map(str, error.instance_path))
        shown = json.dumps(value, ensure_ascii=False)[:1000]
        raise OffTheDocument(f"{what}: {error.message} (at /{at}): {shown}") from None


def check_said(envelope) -> None:
    """Holds an envelope of the server against the schema."""
    kind = envelope.get("type") if isinstance(envelope, dict) else None
    if kind not in SAID:
        raise OffTheDocument(f"the server says what no document knows: {json.dumps(envelope)[:1000]}")
    hold(definition(SAID[kind]), envelope, kind)


def accepts(envelope) -> bool:
    """Whether a client may say that on a WebSocket."""
    kind = envelope.get("type") if isinstance(envelope, dict) else None
    return isinstance(kind, str) and kind in ASKED and definition(ASKED[kind]).is_valid(envelope)


# Where the schema cannot tell: a cursor is opaque, and `data` must be readable by everyone's parser.
BEYOND_THE_SCHEMA = ("not a cursor of this edge", "data is not JSON that everyone can read")


def check_asked(envelope, answer) -> None:
    """Holds what a client has said against the answer to it: the server takes what the schema does, and nothing else."""
    payload = answer["payload"] if answer["type"] == "error" else {}
    refused = payload.get("reason") in ("malformed", "unknown_type")
    shown = json.dumps(envelope)[:1000]
    if refused and accepts(envelope) and not payload["detail"].startswith(BEYOND_THE_SCHEMA):
        raise OffTheDocument(f"the schema takes what the server refuses ({payload['detail']}): {shown}")
    if not refused and not accepts(envelope):
        raise OffTheDocument(f"the server takes what the schema does not: {shown}")


# ---- HTTP ----------------------------------------------------------------------------------------------------


@dataclass
class Exchange:
    """A request and its answer. Without `headers` only the body is judged; without `body`, only the head."""

    method: str
    target: str
    status: int
    content_type: str | None = None
    headers: Mapping[str, str] | None = None
    body: str | None = None
    request_body: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.target[:200]} -> {self.status}"


def resolve(node: dict) -> dict:
    """Follows a reference within openapi.yaml."""
    while "$ref" in node:
        place, node = node["$ref"].removeprefix("#/"), OPENAPI
        for step in place.split("/"):
            node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


@functools.cache
def templates() -> list[tuple[re.Pattern, str]]:
    """The paths as patterns, those without parameters first. A channel's name may hold slashes."""
    paths = sorted(OPENAPI["paths"], key=lambda path: ("{" in path, path))
    kinds = {"channel": ".+", "file": "[^/]+"}
    return [(re.compile(re.sub(r"\{(\w+)\}", lambda name: kinds[name[1]], path)), path) for path in paths]


def find_path(target: str, admin: bool = False) -> str | None:
    """The documented path of that listener which a request names."""
    asked = urlsplit(target).path
    for pattern, path in templates():
        if pattern.fullmatch(asked) and ("servers" in OPENAPI["paths"][path]) == admin:
            return path
    return None


def check_exchange(exchange: Exchange, admin: bool = False) -> None:
    """Holds an HTTP answer against openapi.yaml: status, headers and body; and, if it succeeded, its request."""
    if exchange.status in BARE and exchange.content_type is None and not exchange.body:
        return
    response, operation, path = documented(exchange, admin)
    if exchange.headers is not None:
        check_headers(exchange, response)
    check_body(exchange, response)
    if operation is not None and exchange.status < 300:
        check_query(exchange, operation, path)
        check_request_body(exchange)


def documented(exchange: Exchange, admin: bool) -> tuple[dict, dict | None, str | None]:
    """The answer as the document has it, and the operation that it belongs to."""
    components = OPENAPI["components"]["responses"]
    path = find_path(exchange.target, admin)
    item = OPENAPI["paths"][path] if path else {}
    method = "get" if exchange.method == "HEAD" else exchange.method.lower()
    operation = item.get(method)
    if operation is not None and str(exchange.status) in operation["responses"]:
        return resolve(operation["responses"][str(exchange.status)]), operation, path
    # What holds for every resource, and for what is none.
    common = {400: "Malformed", 501: "NotImplemented", 503: "TryAgainLater"}
    if path is None or "development" in tags_of(item):
        common[404] = "NotFound"
    if path is not None and (operation is None or exchange.method == "HEAD"):
        common |= {405: "MethodNotAllowed", 403: "Forbidden"}
    if exchange.method == "OPTIONS" and (path is not None or exchange.target == "*") and not admin:
        common[204] = "Options"
    if exchange.status not in common:
        raise OffTheDocument(f"{exchange}: openapi.yaml has no such status for {path}")
    return components[common[exchange.status]], None, path


def tags_of(item: dict) -> set[str]:
    return {tag for operation in item.values() if "tags" in operation for tag in operation["tags"]}


def check_headers(exchange: Exchange, response: dict) -> None:
    sent = {name.lower(): value for name, value in exchange.headers.items()}
    for name, header in response.get("headers", {}).items():
        header, value = resolve(header), sent.get(name.lower())
        if value is None:
            if header.get("required"):
                raise OffTheDocument(f"{exchange}: no {name}")
            continue
        schema = header["schema"]
        hold(validator(schema), typed(value, schema), f"{exchange}: {name}")


def check_body(exchange: Exchange, response: dict) -> None:
    content = response.get("content", {})
    kind = (exchange.content_type or "").partition(";")[0]
    if content and kind not in content:
        raise OffTheDocument(f"{exchange}: of the type {kind!r}, documented are {list(content)}")
    if exchange.method == "HEAD":
        if exchange.body:
            raise OffTheDocument(f"{exchange}: a body")
        return
    if exchange.body is None or kind == EVENTS:
        return
    if not content:
        if exchange.body:
            raise OffTheDocument(f"{exchange}: a body, which is not documented")
        return
    value = json.loads(exchange.body) if kind.endswith("json") else exchange.body
    hold(validator(content[kind]["schema"]), value, str(exchange))
    if kind == PROBLEM and value["status"] != exchange.status:
        raise OffTheDocument(f"{exchange}: a problem of status {value['status']}")


def check_query(exchange: Exchange, operation: dict, path: str) -> None:
    """Parameters that are not documented are ignored, as the server does."""
    item = OPENAPI["paths"][path]
    declared = [resolve(one) for one in [*item.get("parameters", []), *operation.get("parameters", [])]]
    query = parse_qsl(urlsplit(exchange.target).query, keep_blank_values=True)
    for parameter in declared:
        if parameter["in"] == "path":
            values = templates_match(exchange, path)
        elif parameter["in"] == "query":
            values = [value for name, value in query if name == parameter["name"] and value]
            if parameter.get("required") and not values:
                raise OffTheDocument(f"{exchange}: taken without {parameter['name']}")
        else:
            continue
        for value in values:
            schema = parameter["schema"]
            hold(validator(schema), typed(value, schema), f"{exchange}: {parameter['name']}")


def templates_match(exchange: Exchange, path: str) -> list[str]:
    before, _, after = re.split(r"(\{\w+\})", path)
    return [unquote(urlsplit(exchange.target).path.removeprefix(before).removesuffix(after))]


def check_request_body(exchange: Exchange) -> None:
    """What /v1/send has taken; of an array, unless one of it was refused."""
    if exchange.target.partition("?")[0] != "/v1/send" or not exchange.request_body or exchange.body is None:
        return
    reasons = {answer["payload"].get("reason") for answer in json.loads(exchange.body)}
    if not reasons & {"malformed", "unknown_type"}:
        hold(definition("SendRequest"), json.loads(exchange.request_body), f"{exchange}: taken")


def typed(value: str, schema: dict):
    """The text of a header or a parameter as the kind of value that its schema speaks of."""
    match schema.get("type"):
        case "integer" if re.fullmatch(r"-?\d+", value):
            return int(value)
        case "array":
            return value.split(",")
    return value
