"""The Inspector's `mcpdo`, command by command, in one era: `mcpdo.py URL PATIENCE ERA NODE MCPDO HOME`.

A connection takes one command at a time, so a second one, which speaks 2025-11-25, finds the task that the
first one waits for: only that revision lists tasks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 45
FINAL = ("completed", "failed", "cancelled")
URL, PATIENCE, ERA, NODE, MCPDO, HOME = sys.argv[1:]


class Failed(Exception):
    """A command did not do what it should."""


class Connection:
    """A daemon of its own, connected to the server."""

    def __init__(self, name: str, era: str) -> None:
        self._directory, self._era = Path(HOME) / name, era
        self._directory.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "HOME": str(self._directory),
            "MCP_INSPECTOR_SECRET_STORE": "file",
            "PATH": os.pathsep.join([str(Path(NODE).parent), os.environ.get("PATH", os.defpath)]),
        }
        exports = self._output("private")
        for line in exports.splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self._environment[name] = value.strip("'")

    def connect(self) -> Any:
        self.daemon("stop")
        return json.loads(self._output("connect", URL, "--era", self._era))

    def run(self, *command: str) -> Any:
        return json.loads(self._output("--connection", URL, *command))

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command("--connection", URL, *command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def daemon(self, verb: str) -> None:
        self._output("daemon", verb)

    def _command(self, *arguments: str) -> list[str]:
        return [NODE, MCPDO, "--format", "json", *arguments]

    def _output(self, *arguments: str) -> str:
        ran = subprocess.run(
            self._command(*arguments),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        if ran.returncode != 0:
            raise Failed(f"{arguments[-3:]}: {ran.stdout[-500:]} {ran.stderr[-500:]}")
        return ran.stdout


caller, watcher = Connection("caller", ERA), Connection("watcher", "legacy")
cancelled_task = ""


def texts(result: Any) -> list[str]:
    if "content" not in result:
        raise Failed(f"no result: {result}")
    return [block["text"] for block in result["content"] if block["type"] == "text"]


def connect() -> Any:
    return caller.connect()["protocolEra"]


def call() -> Any:
    return texts(caller.run("tools/call", "add", "left:=1", "right:=2"))


def call_as_task() -> Any:
    return texts(caller.run("tools/call", "count", "--task"))


def question() -> Any:
    pending = caller.run("tools/call", "ask", "--task")["elicitationPending"]
    answered = caller.run("elicitation/respond", pending["elicitationId"], "name:=Ada")
    return {"asked": pending["message"], "result": texts(answered)}


def known() -> set[str]:
    return {task["taskId"] for task in watcher.run("tasks/list")["tasks"]}


def poll_and_cancel() -> Any:
    """Poll a task that the other connection has made, and cancel it there; the caller hears of it."""
    watcher.connect()
    before = known()
    running = caller.start("tools/call", "endless", "--task")
    try:
        end = time.monotonic() + COMMAND_SECONDS
        while not (new := known() - before):
            if time.monotonic() > end:
                raise Failed("the task is not listed")
        poller = Connection("poller", ERA)
        poller.connect()
        try:
            task_id = new.pop()
            first = poller.run("tasks/get", task_id)
            poller.run("tasks/cancel", task_id)
            last = poller.run("tasks/get", task_id)
        finally:
            poller.daemon("stop")
        told, _ = running.communicate(timeout=COMMAND_SECONDS)
    finally:
        running.kill()
        running.wait()
    if "cancel" not in told.lower():
        # Its front end may have been killed at that moment; in peace there is no second try.
        raise Failed(f"the caller was not told of the end: {told}")
    return {"first": _status(first), "last": _status(last), "caller_told": True}


def _status(answer: Any) -> Any:
    return answer.get("task", answer).get("status", answer)


ACTS: tuple[Callable[[], Any], ...] = (connect, call, call_as_task, question, poll_and_cancel)


def main() -> None:
    for act in ACTS:
        give_up = time.monotonic() + float(PATIENCE)
        while True:
            try:
                print(json.dumps({"act": act.__name__, "saw": act()}), flush=True)
            except (Failed, subprocess.TimeoutExpired, ValueError, KeyError) as error:
                print(f"again: {error!r}", file=sys.stderr)
                if time.monotonic() > give_up:
                    print(json.dumps({"act": act.__name__, "error": repr(error)}), flush=True)
                    break
                try:
                    caller.connect()
                except (Failed, subprocess.TimeoutExpired, ValueError) as refused:
                    print(f"again: {refused!r}", file=sys.stderr)
            else:
                break


try:
    main()
finally:
    for connection in (caller, watcher):
        connection.daemon("stop")
