"""Which server a round trip goes to: the only one, the master that sentinels name, or the owner of a slot.

A program knows nothing of servers. `routed` gives each of its round trips an address, and asks where the
servers are whenever that is in doubt: before the first round trip, after every lost connection, and after
every answer that means "not here" or "not now". No redirection is followed: such an answer fails the try, and
the program's own loop, which knows of tokens, tries again.

A round trip that relies on WATCH goes over the connection that watches (`RoundTrip.follows`). An EXEC can
therefore never reach a server over a connection that has not watched, which is what redis-py's cluster client
lets happen when it connects again by itself.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ResponseError

from ...addresses.redis import Address, Kind, Node
from ...domain.errors import StoreUnavailable
from .layout import Command, Shard
from .transaction import Backoff, LostConnection, Program, Reply, RoundTrip

T = TypeVar("T")

KEYLESS = frozenset(
    {
        *("DISCARD", "EXEC", "INFO", "MULTI", "PING", "PUBLISH", "SCAN"),
        *("SUBSCRIBE", "TIME", "UNSUBSCRIBE", "UNWATCH"),
    }
)
"""The commands without a key; of all others the first argument is one."""


class Servers:
    """One server, at an address that does not change.

    Attributes:
        may_change: Whether another server may take what one refuses.
    """

    may_change = False

    def routed(self, program: Program[T]) -> Program[T]:
        """The same program, whose round trips say which server they go to."""
        return program

    def doubt(self) -> None:
        """Ask again before the next round trip: the server may not be the right one any more."""

    def is_current(self, node: Node) -> bool:
        """Whether that server is still one to listen at."""
        return True

    def locate(self) -> Program[Sequence[Node | None]]:
        """The servers that take writes, asked for anew; in no order.

        Raises:
            StoreUnavailable: Nobody knows.
        """
        yield from ()
        return (None,)


class _Guided(Servers):
    """Servers that one has to ask for.

    Args:
        guides: Whom to ask, in any order.

    Attributes:
        question: What they are asked.
        guide: Who answered last.
    """

    may_change = True
    question: Command

    def __init__(self, guides: Iterable[Node]) -> None:
        self._guides = deque(_shuffled(guides))
        self._is_known = False
        self.guide: Node | None = None

    def doubt(self) -> None:
        self._is_known = False

    def routed(self, program: Program[T]) -> Program[T]:
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    if step.leave:
                        self.doubt()
                    yield step
                    step = program.send([])
                    continue
                try:
                    replies = yield from self._answered(step)
                except LostConnection as error:
                    self.doubt()
                    step = program.throw(error)
                else:
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except StoreUnavailable:
            self.doubt()
            raise

    def locate(self) -> Program[Sequence[Node | None]]:
        try:
            yield from self._ask()
        except LostConnection as error:
            raise error.failure.error() from None
        return self._primaries()

    def _answered(self, round_trip: RoundTrip) -> Program[list[Reply]]:
        if round_trip.node is not None or round_trip.follows:
            return (yield round_trip)
        if not self._is_known:
            yield from self._ask()
        return (yield from self._addressed(round_trip))

    def _ask(self) -> Program[None]:
        """Learn where the servers are; each time from another guide, since one may be silent, or behind."""
        failure = ""
        for _ in range(len(self._guides)):
            guide = self._guides[0]
            self._guides.rotate(-1)
            try:
                (reply,) = yield RoundTrip([self.question], guide)
            except LostConnection as error:
                failure = f"{guide}: {error}"
                continue
            failure = f"{guide}: {reply}" if isinstance(reply, ResponseError) else self._learn(guide, reply)
            if not failure:
                self._is_known, self.guide = True, guide
                return
        raise LostConnection(failure)

    def _learn(self, guide: Node, reply: Reply) -> str:
        """Take in what a guide has told; what it lacks, or nothing."""
        raise NotImplementedError

    def _primaries(self) -> Sequence[Node | None]:
        raise NotImplementedError

    def _addressed(self, round_trip: RoundTrip) -> Program[list[Reply]]:
        raise NotImplementedError


class Sentinels(_Guided):
    """The master that sentinels name.

    Args:
        sentinels: Some of those that watch it.
        service: The name that they watch it under.
    """

    def __init__(self, sentinels: Sequence[Node], service: str) -> None:
        super().__init__(sentinels)
        self.service = service
        self.question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        self._master: Node | None = None

    def is_current(self, node: Node) -> bool:
        """Whether it is the master, as far as is known."""
        return node == self._master

    def _primaries(self) -> Sequence[Node | None]:
        return (self._master,)

    def _learn(self, guide: Node, reply: Reply) -> str:
        if reply is None:
            return f"the sentinel {guide} knows no service {self.service!r}"
        host, port = reply
        self._master = Node(host, int(port))
        return ""

    def _addressed(self, round_trip: RoundTrip) -> Program[list[Reply]]:
        return (yield round_trip._replace(node=self._master))


class Cluster(_Guided):
    """The owners of a cluster's slots.

    Args:
        seeds: Some of its nodes.
        home: Commands without a key go to the owner of this shard, so that all of them see one clock.
    """

    question = ("CLUSTER", "SLOTS")

    def __init__(self, seeds: Sequence[Node], home: Shard) -> None:
        super().__init__(seeds)
        self._seeds = seeds
        self._home_slot = _slot(home.tag)
        self._owners: list[Node | None] = []
        self._nodes: list[Node] = []

    def is_current(self, node: Node) -> bool:
        """Whether it has slots, as far as is known."""
        return node in self._nodes

    def _primaries(self) -> Sequence[Node | None]:
        return self._nodes

    def _learn(self, guide: Node, reply: Reply) -> str:
        if not reply:
            return f"the node {guide} knows of no slots"
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        met: set[Node] = set()
        for first, last, primary, *replicas in reply:
            owner = _node(guide, primary)
            owners[first : last + 1] = [owner] * (last + 1 - first)
            met.update((owner, *(_node(guide, replica) for replica in replicas)))
        self._owners = owners
        self._nodes = _shuffled({owner for owner in owners if owner is not None})
        self._guides = deque(_shuffled({*met, *self._seeds}))
        return ""

    def _addressed(self, round_trip: RoundTrip) -> Program[list[Reply]]:
        """Send it in one packet if one node has all keys, else in one to each node, one after the other."""
        parts = self._parts(round_trip.commands)
        if len(parts) == 1:
            return (yield round_trip._replace(node=next(iter(parts))))
        replies: list[Reply] = [None] * len(round_trip.commands)
        for node, positions in parts.items():
            answers = yield RoundTrip([round_trip.commands[position] for position in positions], node)
            for position, answer in zip(positions, answers, strict=True):
                replies[position] = answer
        return replies

    def _parts(self, commands: Sequence[Command]) -> dict[Node, list[int]]:
        """Which commands go to which node; those without a key go with the first that has one."""
        slots = [None if command[0] in KEYLESS else _slot(command[1]) for command in commands]
        first = next((slot for slot in slots if slot is not None), self._home_slot)
        parts: dict[Node, list[int]] = {}
        for position, slot in enumerate(slots):
            parts.setdefault(self._owner(first if slot is None else slot), []).append(position)
        return parts

    def _owner(self, slot: int) -> Node:
        if (owner := self._owners[slot]) is None:
            raise LostConnection(f"no node of the cluster serves slot {slot}")
        return owner


def servers_at(address: Address, home: Shard) -> Servers:
    """The servers of an address.

    Args:
        address: Where they are.
        home: See `Cluster`.
    """
    if address.kind is Kind.SENTINEL:
        return Sentinels(address.nodes, address.service)
    return Cluster(address.nodes, home) if address.kind is Kind.CLUSTER else Servers()


def _shuffled(nodes: Iterable[Node]) -> list[Node]:
    """In another order in each process, so that not all ask the same server."""
    shuffled = list(nodes)
    random.shuffle(shuffled)
    return shuffled


def _slot(key: Any) -> int:
    return key_slot(str(key).encode())


def _node(guide: Node, entry: Sequence[Any]) -> Node:
    """A node as another one tells of it; one that does not know its own host is where it was asked."""
    host, port, *_ = entry
    return Node(host if host and host != "?" else guide.host, int(port))
