"""Calls tools of a shop, in a process of its own: a framework's settings are those of a whole process.

`python -m tests.e2e.shop_calls MODULE TOOL=ARGUMENTS...` prints what each call came to, as JSON lines.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from tests.kit.workers import client_of


def main(module: str, *calls: str) -> None:
    """Call one after the other."""
    service = importlib.import_module(module).service
    with client_of(service, os.environ["TASKS_REDIS_URL"]) as client:
        for call in calls:
            tool, _, arguments = call.partition("=")
            ended = client.run(tool, **json.loads(arguments))
            result = json.loads(ended.result) if ended.result else repr(ended.task.failure)
            print(json.dumps(result.get("structuredContent", result)))


if __name__ == "__main__":
    main(*sys.argv[1:])
