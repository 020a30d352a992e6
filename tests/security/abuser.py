"""An owner who calls far too often, as a process: `python -m tests.security.abuser PORT KEY PER_SECOND`.

It goes on until its standard input ends, and then prints how often it was answered with which status.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter

from tests.kit.wire import WireClient

CONNECTIONS = 4


def main(port: str, key: str, per_second: str) -> None:
    over, answered = threading.Event(), Counter[int]()
    begun, pace = time.monotonic(), float(per_second) / CONNECTIONS
    params = {"name": "greet", "arguments": {"name": "Eve"}}

    def abuse() -> None:
        with WireClient(int(port), key=key) as client:
            body = json.dumps(client.message("tools/call", params)).encode()
            headers, number = client.headers("tools/call", params), 0
            while not over.is_set():
                answered[client.post(body, headers).status] += 1
                number += 1
                time.sleep(max(begun + number / pace - time.monotonic(), 0))

    threads = [threading.Thread(target=abuse) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(answered))


if __name__ == "__main__":
    main(*sys.argv[1:])
