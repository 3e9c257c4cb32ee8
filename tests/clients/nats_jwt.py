"""The operator, account and user JWTs of a NATS server that knows no passwords: what `nsc` makes, made here, with keys of
the test's own. https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt"""

import base64
import json
import os
import time
import uuid

import nkeys

# The server counts an account's limits from 0 unless they are set.
ACCOUNT_LIMITS = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1, "wildcards": True}
JETSTREAM_LIMITS = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
USER_LIMITS = {"subs": -1, "data": -1, "payload": -1}


def key_pair(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(bytes(nkeys.encode_seed(os.urandom(32), prefix)))


def public(pair: nkeys.KeyPair) -> str:
    return bytes(pair.public_key).decode()


def signed(by: nkeys.KeyPair, subject: str, name: str, kind: str, claims: dict) -> str:
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "jti": uuid.uuid4().hex,
        "iat": int(time.time()),
        "iss": public(by),
        "sub": subject,
        "name": name,
        "nats": {"type": kind, "version": 2} | claims,
    }
    text = ".".join(base64url(json.dumps(part).encode()) for part in (header, body))
    return f"{text}.{base64url(by.sign(text.encode()))}"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Operator:
    """One operator with one account for the system and one for everybody else."""

    def __init__(self):
        self.key = key_pair(nkeys.PREFIX_BYTE_OPERATOR)
        self.account = key_pair(nkeys.PREFIX_BYTE_ACCOUNT)
        system = key_pair(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {"limits": ACCOUNT_LIMITS | JETSTREAM_LIMITS}
        self.accounts = {
            public(self.account): signed(self.key, public(self.account), "TIDEGATE", "account", limits),
            public(system): signed(self.key, public(system), "SYS", "account", {"limits": ACCOUNT_LIMITS}),
        }
        self.system = public(system)

    def config(self) -> str:
        """For nats-server: it trusts this operator, and finds its accounts in its own memory."""
        accounts = "\n".join(f"  {name}: {token}" for name, token in self.accounts.items())
        operator = signed(self.key, public(self.key), "tests", "operator", {"system_account": self.system})
        return f"operator: {operator}\nsystem_account: {self.system}\nresolver: MEMORY\nresolver_preload: {{\n{accounts}\n}}\n"

    def credentials(self, name: str, publish: list[str] | None = None, subscribe: list[str] | None = None) -> str:
        """The text of a credentials file; without lists that user may do everything in its account."""
        key = key_pair(nkeys.PREFIX_BYTE_USER)
        limits = USER_LIMITS | {"pub": {"allow": publish} if publish else {}, "sub": {"allow": subscribe} if subscribe else {}}
        token = signed(self.account, public(key), name, "user", limits)
        seed = bytes(key.seed).decode()
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
