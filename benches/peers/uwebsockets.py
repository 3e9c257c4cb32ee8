"""A broadcast server on uWebSockets through socketify: its own topics, whose messages never pass through Python again.
Compression is off, as it is by default; a slow reader may lag far behind before messages are left out.

    python uwebsockets.py PORT [CERTIFICATE KEY]
"""

import sys

from socketify import App, AppListenOptions, AppOptions, OpCode

port, *tls = sys.argv[1:]
app = App(AppOptions(cert_file_name=tls[0], key_file_name=tls[1])) if tls else App()


def upgrade(res, req, context):
    res.upgrade(
        req.get_header("sec-websocket-key"),
        req.get_header("sec-websocket-protocol"),
        req.get_header("sec-websocket-extensions"),
        context,
        req.get_url().rpartition("/")[2],
    )


def subscribe(ws):
    ws.subscribe(ws.get_user_data())
    ws.send("joined", OpCode.TEXT)


def publish(_ws, message, _opcode):
    channel, _, data = message.partition("\n")
    app.publish(channel, data, OpCode.TEXT)


LIMITS = {"max_backpressure": 256 << 20, "max_payload_length": 1 << 20, "idle_timeout": 0}
app.ws("/sub/*", {**LIMITS, "upgrade": upgrade, "open": subscribe})
app.ws("/pub/*", {**LIMITS, "message": publish})
app.listen(AppListenOptions(port=int(port), host="127.0.0.1"))
# Not app.run(): that polls, to serve asyncio too. Nothing here needs asyncio, and uWebSockets itself waits in its loop.
app.loop.uv_loop.run()
