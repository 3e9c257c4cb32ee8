"""`ws` from npm: runs ws.test.mjs, in which it is the client."""

import asyncio
import os
import shutil
from pathlib import Path

from traffic import check_file

HERE = Path(__file__).parent


async def test_ws_from_npm(edge, tmp_path):
    node = shutil.which("node")
    assert node, "node is missing: apt-get install nodejs"
    assert (HERE / "node_modules" / "ws").is_dir(), f"`ws` is missing: npm ci --prefix {HERE}"
    environment = os.environ | {
        "EDGE": edge.address,
        "NODE_EXTRA_CA_CERTS": str(edge.certificate.cert),
        "ALICE": edge.token("alice"),
        "BOB": edge.token("bob"),
        "EXPIRED": edge.token(ttl=-1),
        "TRAFFIC": str(tmp_path / "traffic.jsonl"),
    }
    process = await asyncio.create_subprocess_exec(
        node, "--test", "--test-reporter=spec", "ws.test.mjs",
        cwd=HERE, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()
    seen, problems = check_file(tmp_path / "traffic.jsonl")
    assert not problems, problems[:5]
    assert min(seen["said message"], seen["asked message"]) >= 100
