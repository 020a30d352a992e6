"""An owner who calls far too often, as a process: `python -m tests.security.abuser PORT KEY PER_SECOND`.

A line on its standard input lets it begin, or rest, in turns. When it has begun and is refused, and at each
rest, it prints how often it was answered with which status since it began. It ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter

from tests.kit.wire import WireClient

CONNECTIONS = 4


class Abuser:
    """Calls at a pace, from several connections, until it is told to rest."""

    def __init__(self, port: int, key: str, per_second: float) -> None:
        self._port, self._key, self._pace = port, key, per_second / CONNECTIONS
        self._answered = Counter[int]()
        self._rest, self._refused = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self) -> dict[int, int]:
        self._answered.clear()
        self._rest.clear()
        self._refused.clear()
        self._threads = [threading.Thread(target=self._abuse) for _ in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()
        self._refused.wait()
        return dict(self._answered)

    def rest(self) -> dict[int, int]:
        self._rest.set()
        for thread in self._threads:
            thread.join()
        return dict(self._answered)

    def _abuse(self) -> None:
        params = {"name": "greet", "arguments": {"name": "Eve"}}
        with WireClient(self._port, key=self._key) as client:
            body = json.dumps(client.message("tools/call", params)).encode()
            headers, number, begun = client.headers("tools/call", params), 0, time.monotonic()
            while not self._rest.is_set():
                status = client.post(body, headers).status
                self._answered[status] += 1
                number += 1
                if status == 429:
                    self._refused.set()
                time.sleep(max(begun + number / self._pace - time.monotonic(), 0))


def main(port: str, key: str, per_second: str) -> None:
    abuser = Abuser(int(port), key, float(per_second))
    for number, _ in enumerate(sys.stdin):
        answered = abuser.rest() if number % 2 else abuser.begin()
        print(json.dumps(answered), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
