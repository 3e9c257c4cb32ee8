"""Who may connect: every way to present a token, every token that is no good, and the end of a good one."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from datetime import datetime

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from edge import APP, SECRET
from refusals import DOORS, HTTP_DOORS, problem, refusal, request_of
from transports import SUBPROTOCOL, bearer, event_stream, poller, publish, raw_websocket, subscribe, websocket

COOKIE = "__Host-tidegate"

# ---- How a token comes ----

WAYS = {
    "header": lambda token: {"headers": bearer(token)},
    "lower-case scheme": lambda token: {"headers": {"Authorization": f"bearer {token}"}},
    "query": lambda token: {"query": {"token": token}},
    "cookie": lambda token: {"headers": {"Cookie": f"a=b; {COOKIE}={token}", "Origin": APP}},
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_is_taken_on_a_websocket(edge, way):
    async with websocket(edge, **WAYS[way](edge.token("alice"))) as socket:
        assert socket.established.payload["user_id"] == "alice"


@pytest.mark.parametrize("door", HTTP_DOORS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_token_is_taken_over_http(edge, room, door, way):
    presented = WAYS[way](edge.token())
    method, path, options = request_of(door, room)
    options["params"] = options.get("params", {}) | presented.get("query", {})
    async with (
        edge.http() as client,
        client.stream(method, path, headers=presented.get("headers"), **options) as answer,
    ):
        assert answer.is_success, (answer.status_code, await answer.aread())
        if door == "tickets":
            await answer.aread()
            edge.remember(answer.json()["ticket"])


async def test_a_token_is_taken_as_a_subprotocol_that_is_not_selected(edge):
    token = edge.token("alice")
    for offers in ([SUBPROTOCOL, f"tidegate.bearer.{token}"], [f"tidegate.bearer.{token}", SUBPROTOCOL]):
        async with websocket(edge, subprotocols=offers) as socket:
            assert socket.established.payload["user_id"] == "alice"
            assert socket.connection.subprotocol == SUBPROTOCOL


async def test_without_an_offer_no_subprotocol_is_selected(edge):
    async with websocket(edge, edge.token(), subprotocols=None) as socket:
        assert socket.connection.subprotocol is None
        await socket.alive()


async def test_a_token_is_taken_in_a_first_auth(edge, room):
    async with websocket(edge) as socket:
        assert socket.established.payload["user_id"] is None
        token = edge.token("alice", ttl=300)
        answer = await socket.ask("auth", {"token": token})
        assert answer.type == "auth_response"
        assert answer.payload["user_id"] == "alice"
        assert abs(instant(answer.payload["expires_at"]) - (time.time() + 300)) < 5
        await socket.join(room)


async def test_auth_response_comes_without_a_correlation_id_too(edge):
    async with websocket(edge) as socket:
        await socket.send("auth", {"token": edge.token()})
        assert (await socket.expect("auth_response")).correlation_id is None


@pytest.mark.parametrize("origin", [None, "https://evil.example.com"])
@pytest.mark.parametrize("door", DOORS)
async def test_a_cookie_counts_only_with_an_allowed_origin(edge, door, origin):
    headers = {"Cookie": f"{COOKIE}={edge.token()}"} | ({"Origin": origin} if origin else {})
    if door == "ws" and origin is None:
        async with websocket(edge, headers=headers) as socket:
            assert socket.established.payload["user_id"] is None
    else:
        assert (await refusal(edge, door, headers=headers)).code == (4003 if origin else 4001)


async def test_a_header_wins_over_what_a_browser_adds_by_itself(edge):
    headers = bearer(edge.token("alice")) | {"Cookie": f"{COOKIE}={edge.token('bob')}", "Origin": APP}
    async with websocket(edge, headers=headers) as socket:
        assert socket.established.payload["user_id"] == "alice"


# ---- No token: 4001 ----


async def test_a_websocket_without_a_token_is_closed_after_the_timeout(edge):
    began = time.monotonic()
    async with websocket(edge) as socket:
        code, reason = await socket.closed()
        assert (code, reason) == (4001, "authentication_required")
        assert 0.8 < time.monotonic() - began < 3
        assert [e.payload["code"] for e in socket.early if e.type == "error"] == [4001]


@pytest.mark.parametrize("door", HTTP_DOORS)
async def test_http_without_a_token_is_refused_at_once(edge, door):
    refused = await refusal(edge, door)
    assert (refused.code, refused.reason) == (4001, "authentication_required")


@pytest.mark.parametrize("type", ["join_room", "message", "history", "presence", "typing_start"])
async def test_before_auth_a_websocket_can_do_nothing(edge, room, type):
    async with websocket(edge) as socket:
        refused = await socket.refused(type, {"channel": room, "data": 1})
        assert refused["code"] == 4001


# ---- No good token: 4002 ----


def with_algorithm_none(edge):
    return edge.sign(edge.claims(), key=None, algorithm="none")


BAD_TOKENS = {
    "of another secret": lambda edge: edge.sign(edge.claims(), key="another secret, also long enough for HS256"),
    "expired": lambda edge: edge.token(ttl=-1),
    "wrong aud": lambda edge: edge.token(aud="another"),
    "no aud": lambda edge: edge.token(aud=None),
    "wrong iss": lambda edge: edge.token(iss="https://evil.example.com"),
    "no iss": lambda edge: edge.token(iss=None),
    "alg none": with_algorithm_none,
    "HS512": lambda edge: edge.sign(edge.claims(), key=SECRET * 2, algorithm="HS512"),
    "no sub": lambda edge: edge.token(sub=None),
    "empty sub": lambda edge: edge.token(sub=""),
    "no exp": lambda edge: edge.token(exp=None),
    "nbf in the future": lambda edge: edge.token(nbf=int(time.time()) + 300),
    "changed claims": lambda edge: edge.remember(changed(edge.token("alice"), sub="root")),
    "no signature": lambda edge: edge.token().rpartition(".")[0] + ".",
    "garbage": lambda edge: "garbage",
    "empty": lambda edge: "",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TOKENS)
@pytest.mark.parametrize("door", ["ws", "sse", "poll", "send"])
async def test_a_bad_token_is_refused(edge, door, kind):
    refused = await refusal(edge, door, query={"token": BAD_TOKENS[kind](edge)})
    assert (refused.code, refused.reason) == (4002, "authentication_failed")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", DOORS)
async def test_a_bad_token_is_refused_however_it_comes(edge, door, way):
    refused = await refusal(edge, door, **WAYS[way](edge.token(ttl=-1)))
    assert (refused.code, refused.reason) == (4002, "authentication_failed")


async def test_a_bad_token_is_refused_as_a_subprotocol(edge):
    offers = [SUBPROTOCOL, f"tidegate.bearer.{edge.token(ttl=-1)}"]
    async with raw_websocket(edge, subprotocols=offers) as socket:
        assert await socket.closed() == (4002, "authentication_failed")
        assert [envelope.type for envelope in socket.early] == ["error"]


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_in_auth_is_an_error_and_a_close(edge, kind):
    async with websocket(edge) as socket:
        refused = await socket.refused("auth", {"token": BAD_TOKENS[kind](edge)})
        assert (refused["code"], refused["reason"]) == (4002, "authentication_failed")
        assert await socket.closed() == (4002, "authentication_failed")


async def test_another_scheme_than_bearer_is_refused(edge):
    assert (await refusal(edge, "poll", headers={"Authorization": "Basic YTpi"})).code == 4002


def changed(token: str, **claims) -> str:
    head, payload, signature = token.split(".")
    decoded = json.loads(base64.urlsafe_b64decode(payload + "=="))
    payload = base64.urlsafe_b64encode(json.dumps(decoded | claims).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}.{signature}"


# ---- Other keys than a shared secret ----

PRIVATE_KEYS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
JWK_OF = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


@pytest.fixture
def jwks_edge(start, tmp_path):
    keys = [
        JWK_OF[algorithm].to_jwk(key.public_key(), as_dict=True) | {"kid": algorithm, "alg": algorithm, "use": "sig"}
        for algorithm, key in PRIVATE_KEYS.items()
    ]
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": keys}))
    return start(auth={"jwks_file": str(file)})


async def test_keys_of_a_jwks_file_open_the_door_and_no_confusion_of_them_does(jwks_edge):
    edge = jwks_edge
    for algorithm, key in PRIVATE_KEYS.items():
        token = edge.sign(edge.claims("alice"), key=key, algorithm=algorithm, kid=algorithm)
        async with websocket(edge, token) as socket:
            assert socket.established.payload["user_id"] == "alice", algorithm
    async with websocket(edge, edge.token("bob")) as socket:
        assert socket.established.payload["user_id"] == "bob", "the shared secret beside the file"

    public = PRIVATE_KEYS["RS256"].public_key()
    encodings = [
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]
    bad = [signed_with_public_key(edge, encoded) for encoded in encodings]
    stranger = rsa.generate_private_key(65537, 2048)
    bad += [
        edge.sign(edge.claims(), key=stranger, algorithm="RS256", kid="RS256"),
        edge.sign(edge.claims(), key=PRIVATE_KEYS["RS256"], algorithm="RS512", kid="RS256"),
        edge.sign(edge.claims(), key=PRIVATE_KEYS["RS256"], algorithm="PS256", kid="RS256"),
        edge.sign(edge.claims(), key=PRIVATE_KEYS["RS256"], algorithm="RS256", kid="ES256"),
    ]
    for token in bad:
        assert (await refusal(edge, "poll", token)).code == 4002, jwt.get_unverified_header(token)


def signed_with_public_key(edge, key: bytes) -> str:
    """HS256 with a public key as the secret: what a verifier takes that lets the token choose the algorithm."""

    def encode(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "RS256"}).encode()
    signed = encode(header) + b"." + encode(json.dumps(edge.claims()).encode())
    return edge.remember((signed + b"." + encode(hmac.digest(key, signed, hashlib.sha256))).decode())


# ---- The end of a good token ----


async def test_a_websocket_is_closed_when_its_token_runs_out(edge, room):
    expires = time.time() + 1.5
    async with websocket(edge, edge.token(ttl=1.5)) as socket:
        await socket.join(room)
        assert await socket.closed() == (4002, "authentication_failed")
        assert expires - 0.1 < time.time() < expires + 2
        assert [e.payload["code"] for e in socket.early if e.type == "error"] == [4002]


async def test_a_stream_ends_when_its_token_runs_out(edge, room):
    expires = time.time() + 1.5
    async with event_stream(edge, edge.token(ttl=1.5), room) as stream:
        await stream.until("room_joined")
        assert (await stream.expect("error")).payload["code"] == 4002
        await stream.ended()
        assert expires - 0.1 < time.time() < expires + 2


async def test_a_poll_does_not_outlive_its_token(edge, room):
    expires = time.time() + 1.5
    async with poller(edge, edge.token(ttl=1.5), room) as polls:
        cursor = (await polls.poll()).cursor
        query = {"channels": room, "cursor": cursor, "wait": "20"}
        answer = await polls.client.get("/v1/poll", params=query, headers=polls.headers)
        assert time.time() < expires + 2
        if answer.status_code != 200:
            assert problem(answer).code == 4002
        answer = await polls.client.get("/v1/poll", params=query, headers=polls.headers)
        assert (answer.status_code, problem(answer).code) == (401, 4002)


async def test_auth_renews_a_token_in_place(edge, room):
    async with websocket(edge, edge.token(ttl=1.5)) as socket:
        await socket.join(room)
        answer = await socket.ask("auth", {"token": edge.token(ttl=600)})
        assert (answer.type, answer.payload["user_id"]) == ("auth_response", "alice")
        await asyncio.sleep(2.5)
        await publish(edge, edge.token("bob"), room, "still here")
        assert (await socket.until("message")).data == "still here"


async def test_a_failed_renewal_closes(edge):
    async with websocket(edge, edge.token()) as socket:
        assert (await socket.refused("auth", {"token": edge.token(ttl=-1)}))["code"] == 4002
        assert (await socket.closed())[0] == 4002


async def test_a_connection_stays_its_users(edge):
    async with websocket(edge, edge.token("alice")) as socket:
        assert (await socket.refused("auth", {"token": edge.token("bob")}))["code"] == 4002
        assert (await socket.closed())[0] == 4002


async def test_channels_of_the_query_are_joined_after_a_first_auth(edge, room):
    async with websocket(edge, query={"channels": room}) as socket:
        await socket.send("auth", {"token": edge.token()})
        await socket.expect("auth_response")
        assert (await socket.expect("room_joined")).payload["channel"] == room


async def test_a_renewed_token_brings_its_own_grants(edge, room):
    async with websocket(edge, edge.token(channels={})) as socket:
        assert (await socket.refused("join_room", {"channel": room}))["reason"] == "forbidden"
        await socket.ask("auth", {"token": edge.token(channels={"join": [room]})})
        await socket.join(room)


# ---- Guests ----


@pytest.fixture
def open_edge(start):
    return start(auth={"mode": "optional"})


async def test_where_tokens_are_optional_one_without_is_a_guest(open_edge):
    async with websocket(open_edge) as one, websocket(open_edge) as two:
        names = [socket.established.payload["user_id"] for socket in (one, two)]
        assert all(name.startswith("guest-") for name in names)
        assert names[0] != names[1]
        await asyncio.sleep(1.3)
        await one.alive()


@pytest.mark.parametrize("transport", ["ws", "sse", "poll"])
async def test_a_guest_joins_and_sends_where_anyone_may(open_edge, transport):
    async with subscribe(open_edge, transport, None, "open:a") as guest:
        async with open_edge.http() as client:
            answer = await client.post("/v1/channels/open:a/messages", json="hi")
            assert answer.status_code == 201, answer.text
        message = await guest.expect("message")
        assert message.payload["sender_id"].startswith("guest-")


@pytest.mark.parametrize("channel", ["members:a", "chat:a", "user:alice"])
async def test_a_guest_is_refused_where_a_token_is_needed(open_edge, channel):
    async with websocket(open_edge) as guest:
        for type in ("join_room", "message", "history", "presence"):
            refused = await guest.refused(type, {"channel": channel, "data": 1})
            assert (refused["code"], refused["reason"], refused["channel"]) == (4000, "forbidden", channel), type


async def test_a_guest_becomes_a_user_by_auth(open_edge):
    async with websocket(open_edge) as guest:
        answer = await guest.ask("auth", {"token": open_edge.token("alice")})
        assert answer.payload["user_id"] == "alice"
        await guest.join("user:alice")


@pytest.mark.parametrize("door", ["ws", "sse", "poll", "send"])
async def test_a_bad_token_never_makes_a_guest(open_edge, door):
    assert (await refusal(open_edge, door, open_edge.token(ttl=-1), room="open:a")).code == 4002


async def test_http_guests_of_one_address_are_one_guest(open_edge):
    async with websocket(open_edge) as watcher:
        await watcher.join("open:a")
        for _ in range(2):
            async with open_edge.http() as client:
                await client.post("/v1/channels/open:a/messages", json=1)
        first, second = await watcher.messages(2)
        assert first.payload["sender_id"] == second.payload["sender_id"]


def instant(expires_at) -> float:
    """Seconds since 1970, whichever of the usual forms it has."""
    if isinstance(expires_at, str):
        return datetime.fromisoformat(expires_at).timestamp()
    return expires_at
