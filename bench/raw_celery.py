"""A Celery app with one task and nothing else: what a worker of ours is compared with."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("raw", broker=os.environ["BENCH_BROKER"])


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(x: int) -> int:
    """Return x."""
    return x
