"""Redis as operators run it, with real servers: a master and its replica under sentinels, and clusters."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from tasks_service.local.redis_server import find_server

from .proxy import CuttingProxy
from .servers import RedisServer, free_port
from .waiting import wait_until

SERVICE = "tasks"
SLOTS = 16_384


class SentinelServer:
    """A real sentinel on a loopback port, watching one master."""

    def __init__(self, watched_port: int, *, quorum: int, down_after_ms: int) -> None:
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="sentinel-")
        settings = Path(self._directory.name) / "sentinel.conf"
        settings.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._directory.name}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {watched_port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}\n"
            f"sentinel failover-timeout {SERVICE} 4000\n"
        )
        self.process = subprocess.Popen(
            [str(find_server()), str(settings), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, *command: str) -> Any:
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*command)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._directory.cleanup()


class SentinelGroup:
    """A master, a replica and three sentinels. Each server is reached through a proxy that can cut.

    Args:
        down_after_ms: Silence after which a sentinel holds a server for dead.
        in_front: Opens what stands before a server's port, and says on which port it does.
    """

    def __init__(
        self, *, down_after_ms: int = 1_000, in_front: Callable[[int], int] = lambda port: port
    ) -> None:
        with ExitStack() as opened:
            self.servers: list[RedisServer] = []
            self.proxies: dict[int, CuttingProxy] = {}
            for _ in range(2):
                port = free_port()
                proxy = CuttingProxy(in_front(port))
                opened.callback(proxy.close)
                announced = ("--replica-announce-port", str(proxy.port), "--replica-announce-ip", "127.0.0.1")
                server = RedisServer(*announced, "--repl-diskless-sync-delay", "0", port=port)
                opened.callback(server.close)
                self.servers.append(server)
                self.proxies[proxy.port] = proxy
            first, second = self.servers
            with second.client() as client:
                client.replicaof("127.0.0.1", self._announced(first))
            self.sentinels = [
                SentinelServer(self._announced(first), quorum=2, down_after_ms=down_after_ms)
                for _ in range(3)
            ]
            for sentinel in self.sentinels:
                opened.callback(sentinel.close)
            wait_until(self.is_whole, "three sentinels know each other and the replica")
            self._open = opened.pop_all()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/0?service={SERVICE}"

    @property
    def master(self) -> RedisServer:
        """The server that the first sentinel names."""
        return next(s for s in self.servers if self._announced(s) == self.master_port())

    @property
    def proxy(self) -> CuttingProxy:
        """The proxy in front of the master."""
        return self.proxies[self.master_port()]

    def flush(self) -> None:
        with self.master.client() as client:
            client.flushall()

    def is_whole(self) -> bool:
        """Whether every sentinel knows the others and a healthy replica."""
        for sentinel in self.sentinels:
            told = dict(_pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE)))
            replicas = [dict(_pairs(one)) for one in sentinel.ask("SENTINEL", "REPLICAS", SERVICE)]
            healthy = [one for one in replicas if one["flags"] == "slave" and _is_linked(one)]
            if told["num-other-sentinels"] != "2" or told["flags"] != "master" or not healthy:
                return False
        return True

    def fail_over(self) -> None:
        """Let the replica take over, as an operator would; returns when every server and sentinel knows.

        Until the old master knows that it is none, it acknowledges writes that are lost when it does.
        """
        old, before = self.master, self.master_port()
        wait_until(lambda: self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE), "a failover begins")
        self.until_replaced(before)
        with old.client() as client:
            wait_until(lambda: client.info("replication")["role"] == "slave", "the old master follows")

    def kill_master(self) -> RedisServer:
        """SIGKILL; returns the dead server when every sentinel names the other one."""
        dead, before = self.master, self.master_port()
        dead.kill()
        self.until_replaced(before)
        return dead

    def until_replaced(self, before: int) -> None:
        def replaced() -> bool:
            return all(self._named(sentinel) != before for sentinel in self.sentinels)

        wait_until(replaced, "all sentinels name another master")

    def close(self) -> None:
        self._open.close()

    def master_port(self) -> int:
        return self._named(self.sentinels[0])

    def _named(self, sentinel: SentinelServer) -> int:
        return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def _announced(self, server: RedisServer) -> int:
        return list(self.proxies)[self.servers.index(server)]


class ClusterServers:
    """Real nodes with all slots among them. Each is reached through a proxy that can cut.

    Args:
        primaries: How many nodes have slots.
        followers: How many replicas there are, one for each of the first primaries.
    """

    def __init__(self, primaries: int = 3, *, followers: int = 0) -> None:
        self.servers: list[RedisServer] = []
        self.proxies: list[CuttingProxy] = []
        self._buses: list[int] = []
        with ExitStack() as opened:
            for _ in range(primaries + followers):
                self._add_node(opened)
            self._join(primaries)
            wait_until(self.is_whole, "all nodes know all slots")
            self._follow(primaries)
            self._open = opened.pop_all()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def is_whole(self) -> bool:
        for server in self.servers:
            with server.client() as client:
                told = client.execute_command("CLUSTER INFO")
                if told["cluster_state"] != "ok" or told["cluster_known_nodes"] != str(len(self.servers)):
                    return False
        return True

    def flush(self) -> None:
        for server in self.servers:
            with server.client() as client:
                if client.info("replication")["role"] == "master":
                    client.flushall()

    def owns(self, place: int, slot: int) -> bool:
        """Whether a node says that it has a slot."""
        with self.servers[place].client() as client:
            (me,) = (
                line for line in client.execute_command("CLUSTER NODES").values() if "myself" in line["flags"]
            )
            return any(int(first) <= slot <= int(last) for first, last in map(_bounds, me["slots"]))

    def move_slot(self, slot: int, target: int) -> None:
        """Hand a slot and all its keys to a node, as redis-cli does."""
        ids = [self._id(server) for server in self.servers]
        with ExitStack() as clients:
            nodes = [clients.enter_context(server.client()) for server in self.servers]
            source = next(place for place in range(len(nodes)) if self.owns(place, slot))
            nodes[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
            nodes[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
            port = self.servers[target].port
            while keys := nodes[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                nodes[source].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
            for place in (target, source):
                nodes[place].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])

    def close(self) -> None:
        self._open.close()

    def _add_node(self, opened: ExitStack) -> None:
        port, bus = free_port(), free_port()
        proxy = CuttingProxy(port)
        opened.callback(proxy.close)
        server = RedisServer(
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
            *("--cluster-port", str(bus), "--cluster-announce-port", str(proxy.port)),
            *("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-bus-port", str(bus)),
            port=port,
        )
        opened.callback(server.close)
        self.servers.append(server)
        self.proxies.append(proxy)
        self._buses.append(bus)

    def _join(self, primaries: int) -> None:
        bounds = [SLOTS * place // primaries for place in range(primaries + 1)]
        for place, server in enumerate(self.servers):
            with server.client() as client:
                if place < primaries:
                    client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[place], bounds[place + 1] - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", place + 1)
                if place:
                    meet = ("CLUSTER MEET", "127.0.0.1", self.servers[0].port, self._buses[0])
                    client.execute_command(*meet)

    def _follow(self, primaries: int) -> None:
        for place, server in enumerate(self.servers[primaries:]):
            leader = self._id(self.servers[place])
            with server.client() as client:
                wait_until(
                    lambda c=client, id_=leader: c.execute_command("CLUSTER REPLICATE", id_), "follows"
                )
                wait_until(lambda c=client: c.info("replication")["master_link_status"] == "up", "in step")

    def _id(self, server: RedisServer) -> str:
        with server.client() as client:
            return str(client.execute_command("CLUSTER MYID"))


def _bounds(slots: Sequence[str]) -> tuple[str, str]:
    return slots[0], slots[-1]


def _pairs(reply: Any) -> Iterator[tuple[str, str]]:
    return reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)


def _is_linked(replica: dict[str, Any]) -> bool:
    return replica.get("master-link-status") == "ok"


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A process that is silent meanwhile, as a machine that hangs is."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)
