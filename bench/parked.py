"""What tasks that wait for a person cost the others, and how soon a tool goes on when it was answered.

    python -m bench.parked [PARKED]

Two stacks run side by side, one of them with PARKED tasks (10,000 by default) that wait for an answer. They
do the same work in turn; only the ratio counts. Then tasks are asked and answered, and the time from the
answer to the claim is read from their transition logs, on Redis's clock.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from tasks_service.domain.events import Claim, Create, Question, RequestInput
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import JsonText, Owner, Phase, new_token
from tasks_service.store.redis import RedisTaskStore

from .latency import Client, Stack, stack

ROUNDS = 7
TASKS = 200
ANSWERS = 60
WAITING = Owner("bench-waiting")


def park(url: str, count: int) -> None:
    """Record tasks that wait for an answer, as a worker would have left them."""
    store = RedisTaskStore(url, pool=8)
    question = Question(request=JsonText('{"kind":"form","message":"?","schema":{"type":"object"}}'))

    def one(_: int) -> None:
        task_id, lease_id = new_task_id(WAITING), new_token()
        store.create(
            Create(task_id=task_id, owner=WAITING, tool="ask", queue="tasks", arguments=JsonText("{}"))
        )
        store.claim(task_id, Claim(lease_id=lease_id, worker="bench"))
        store.commit(task_id, RequestInput(lease_id=lease_id, inputs={"question": question}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(count)))
    store.close()


def throughput(port: int) -> float:
    """Tasks per second, created in a row and drained."""
    client = Client(port)
    started = time.perf_counter()
    ids = [client.create("noop", x=number) for number in range(TASKS)]
    for task_id in ids:
        client.wait(task_id)
    return TASKS / (time.perf_counter() - started)


def held(running: Stack) -> dict[str, int]:
    """Threads and memory of the processes, and the connections that Redis sees."""
    found = {"Redis connections": len(redis.Redis.from_url(running.redis_url).client_list())}
    for name, pid in (("front end", running.web), ("worker", running.worker)):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found[f"{name} threads"] = int(status["Threads"])
        found[f"{name} KiB"] = int(status["VmRSS"].split()[0])
    return found


def resume_ms(running: Stack) -> list[int]:
    """Milliseconds from the last answer to the claim, for tasks that were asked and answered."""
    client, store = Client(running.port), RedisTaskStore(running.redis_url)
    delays = []
    for _ in range(ANSWERS):
        task_id = client.create("ask")
        asked = client.wait(task_id)
        (key,) = asked["inputRequests"]
        answer = {"action": "accept", "content": {"name": "Ann"}}
        client.request("tasks/update", {"taskId": task_id, "inputResponses": {key: answer}}, task_id)
        client.wait(task_id)
        log = store.inspect(task_id).log
        answered = next(line for line in log if line.source is Phase.PARKED)
        claimed = next(line for line in log[answered.revision :] if line.target is Phase.RUNNING)
        delays.append(claimed.at_ms - answered.at_ms)
    store.close()
    return delays


def main(parked: int) -> None:
    with stack() as full, stack() as empty:
        for running in (full, empty):
            throughput(running.port)
        before = held(full)
        park(full.redis_url, parked)
        time.sleep(3)
        after = held(full)
        pairs = [(throughput(full.port), throughput(empty.port)) for _ in range(ROUNDS)]
        delays = resume_ms(full)
    print(f"{'':24} {'before':>8} {'with ' + str(parked):>12}")
    for name, value in before.items():
        print(f"{name:24} {value:8} {after[name]:12}")
    with_parked, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"throughput, tasks/s      {with_parked:.0f} with, {without:.0f} without; median ratio {ratio:.2f}")
    print(f"answer to claim          p50 {statistics.median(delays):.0f} ms, max {max(delays)} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
