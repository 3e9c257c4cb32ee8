#!/usr/bin/env python3
"""Publishes an event to subscribers of Tidegate, through NATS alone: no edge is asked, any edge delivers it.

    pip install nats-py            # and `nkeys` for a credentials file
    publish.py --user shop --password … shop.orders.17 '{"state": "paid"}'

It prints JetStream's acknowledgement and ends with 0: from then on the event is stored. Without one it says why and ends with 1; then
it may be stored or not, and the same `--id` may be used to try again.
"""

import argparse
import asyncio
import json
import ssl
import sys
import uuid

import nats
from nats.errors import Error, NoRespondersError, TimeoutError
from nats.js.errors import APIError, NoStreamResponseError, ServerError, ServiceUnavailableError

# "duplicate message id is in process": the first try is still being stored.
IN_PROCESS = 10158


async def publish(connection, subject: str, body: bytes, message_id: str, stream: str | None):
    """Repeats until it is acknowledged. The id is the same each time, so that it is stored once: for two minutes at least
    JetStream knows it again. Give up before that."""
    pause = 0.1
    while True:
        try:
            # The subject decides which stream takes it; naming that says so where a wrong one does.
            return await connection.jetstream().publish(
                subject, body, timeout=2, stream=stream, headers={"Nats-Msg-Id": message_id}
            )
        except (TimeoutError, NoRespondersError, NoStreamResponseError, ServerError, ServiceUnavailableError) as error:
            # A server that is lost, a stream that chooses a new leader: some seconds.
            reason = error
        except APIError as error:
            if error.err_code != IN_PROCESS:
                raise
            reason = error
        print(f"not acknowledged yet: {reason!r}", file=sys.stderr)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 2)


async def run(options) -> dict:
    refused = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        # A wrong password or a missing permission: to try again would not help.
        if not refused.done() and any(word in str(error).lower() for word in ("authorization", "permissions")):
            refused.set_exception(error)
        print(f"NATS: {error!r}", file=sys.stderr)

    async def connect_and_publish():
        connection = await nats.connect(
            options.server,
            user=options.user,
            password=options.password,
            token=options.token,
            user_credentials=options.creds,
            tls=trust(options),
            # Answers come here; a backend that may hear `_INBOX.>` could hear everybody's.
            inbox_prefix=options.inbox,
            error_cb=on_error,
            reconnect_time_wait=0.5,
        )
        try:
            return await publish(connection, options.subject, options.body, options.id, options.stream)
        finally:
            await connection.close()

    work = asyncio.ensure_future(connect_and_publish())
    done, _ = await asyncio.wait([work, refused], timeout=options.seconds, return_when=asyncio.FIRST_COMPLETED)
    if work in done:
        return (await work).as_dict()
    work.cancel()
    if refused in done:
        raise refused.exception()
    raise TimeoutError


def trust(options) -> ssl.SSLContext | None:
    if not (options.ca or options.cert):
        return None
    context = ssl.create_default_context(cafile=options.ca)
    if options.cert:
        context.load_cert_chain(options.cert, options.key)
    return context


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", help="shop.orders.17 is the channel orders:17 where [channels.orders] says so")
    parser.add_argument("body", help="the message's data: JSON")
    parser.add_argument("--id", default=uuid.uuid4().hex, help="one per event, such as its id in your database")
    parser.add_argument("--server", default="nats://127.0.0.1:4222", help="tls:// for TLS")
    parser.add_argument("--stream", help="the stream that must take it, such as TIDEGATE")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--token")
    parser.add_argument("--creds", metavar="FILE", help="a credentials file")
    parser.add_argument("--ca", metavar="FILE", help="the CA of the server's certificate")
    parser.add_argument("--cert", metavar="FILE", help="a certificate of our own")
    parser.add_argument("--key", metavar="FILE")
    parser.add_argument("--inbox", default="_INBOX.shop", help="where this backend may hear answers")
    parser.add_argument("--seconds", type=float, default=30, help="when to give up")
    options = parser.parse_args()
    try:
        json.loads(options.body)
    except ValueError as error:
        parser.error(f"the body is no JSON, edges would pass over it: {error}")
    options.body = options.body.encode()
    return options


if __name__ == "__main__":
    try:
        print(json.dumps(asyncio.run(run(arguments()))))
    except (Error, OSError) as error:
        sys.exit(f"not acknowledged: {str(error) or repr(error)}")
