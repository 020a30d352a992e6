"""A service whose author prints wherever code can run."""

from __future__ import annotations

import subprocess
import sys
import time

from tasks_service import TaskService

print("printed when the module is imported")
service = TaskService("Talkative")
app = service.celery


@service.tool()
def shout(word: str) -> str:
    """Print in a worker, its children too."""
    print("printed in a worker")
    subprocess.run(["echo", "printed by a child"], check=True)
    return word.upper()


@service.tool()
def rest(seconds: float) -> str:
    """Take a while."""
    time.sleep(seconds)
    return "rested"


@service.resource("note://spoken")
def spoken() -> str:
    """Print in the front end, its children too."""
    print("printed in the front end", flush=True)
    sys.__stdout__.write("printed past a redirection\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]
    subprocess.run(["echo", "printed by a child"], check=True)
    return "spoken"
