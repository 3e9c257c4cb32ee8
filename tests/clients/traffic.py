"""Holds recorded traffic against the documents: `python traffic.py FOLDER`, with files of one JSON object a line, such as
the conformance checks leave in `CONFORMANCE_TRAFFIC`.

    {"said": ENVELOPE}       the server said it
    {"asked": ENVELOPE}      a client said it, and meant it to be right
    {"exchange": {...}}      a request and its answer, with the fields of `documents.Exchange`
"""

import json
import sys
from collections import Counter
from pathlib import Path

from documents import Exchange, OffTheDocument, accepts, check_exchange, check_said, find_path


def check_line(line: str) -> str:
    """Its kind, such as `said message`."""
    record = json.loads(line)
    [(kind, value)] = record.items()
    match kind:
        case "said":
            check_said(value)
            return f"said {value['type']}"
        case "asked":
            if not accepts(value):
                raise OffTheDocument(f"a client says what the schema does not take: {line[:1000]}")
            return f"asked {value['type']}"
        case "exchange":
            # A record does not say which listener it was; what only the other one has is 404.
            admin = value["status"] != 404 and find_path(value["target"], admin=True) is not None
            check_exchange(Exchange(**value), admin)
            return f"{value['method']} {find_path(value['target'], admin)} {value['status']}"
    raise OffTheDocument(f"a record of no kind: {line[:200]}")


def check_file(path: Path) -> tuple[Counter, list[str]]:
    """How much of what is in it, and what is wrong with the rest."""
    seen, problems = Counter(), []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                seen[check_line(line)] += 1
            except (OffTheDocument, ValueError, TypeError) as problem:
                problems.append(f"{path.name}:{number}: {problem}")
    return seen, problems


def main(folder: Path) -> int:
    seen, problems = Counter(), []
    for path in sorted(folder.glob("*.jsonl")):
        more, wrong = check_file(path)
        seen += more
        problems += wrong
    for kind, count in sorted(seen.items()):
        print(f"{count:8} {kind}")
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    # That nothing was recorded is no proof of anything.
    missing = {"said message", "said room_joined"} - seen.keys()
    if missing:
        print(f"{folder} has no {' and no '.join(sorted(missing))}", file=sys.stderr)
    print(f"traffic: {seen.total()} records as documented, {len(problems)} not")
    return 1 if problems or missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
