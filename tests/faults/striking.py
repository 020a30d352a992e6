"""Kills, or stops, a process of each kind at each point that it reaches, again and again, under traffic.

Points are armed for single processes of a service (see `tasks_service.failpoints`), some at a time for each
of them, once it is up; each arming that has struck has left a witness. What has been struck often enough is
armed no more.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tasks_service.failpoints import TAKEN

from .crowd import Progress
from .points import Kind, Place
from .served import Process, ServiceUnderFault, send_signal

ROLES = {Kind.FRONT_END: "leader", Kind.PARENT: "leader", Kind.BEAT: "leader", Kind.CHILD: "member"}
"""How `failpoints` calls processes of a kind."""

ARMED = 3
"""Points that are armed at a time in each process, and in its children; rare ones come on top of them."""

UNREACHED_SECONDS = 2.0
"""After which an arming does not count among these: its point is a rare one."""

STOPPED_SECONDS = 2.6
"""How long a process is stopped: longer than the lease of its tasks, and a sweep."""

PROVOCATION_SECONDS = 3.0
"""How long all workers are up before the next provocation, while a point is wanted that is reached only in
consequence of something."""


class Strike(NamedTuple):
    """What a witness tells."""

    place: Place
    pid: int
    at: float
    """On the machine's monotonic clock, in seconds."""


@dataclass
class Armoury:
    """The armed points of one process of the service, and of its children."""

    process: Process
    points: Path
    armed: dict[Place, float] = field(default_factory=dict)

    def arm(self, place: Place, action: str) -> None:
        """Let an action happen to whoever comes first."""
        made = self.points / "made"
        made.write_text(action)
        made.rename(self._file(place))
        self.armed[place] = time.monotonic()

    def disarm(self) -> None:
        """Let nothing happen any more."""
        for place in self.armed:
            self._file(place).unlink(missing_ok=True)

    def is_fresh(self, place: Place) -> bool:
        """Whether an armed point may well be reached soon."""
        return time.monotonic() - self.armed[place] < UNREACHED_SECONDS

    def fresh(self, kind: Kind) -> int:
        """How many such points there are."""
        return sum(place.kind is kind and self.is_fresh(place) for place in self.armed)

    def struck(self) -> Iterator[Strike]:
        """What has happened since this was last asked."""
        for witness in list((self.points / TAKEN).glob("*")):
            name, side, role, pid, at_ns = witness.name.split(".")
            (place,) = (
                place for place in self.armed if place.point == f"{name}.{side}" and ROLES[place.kind] == role
            )
            del self.armed[place]
            witness.unlink()
            yield Strike(place, int(pid), int(at_ns) / 1e9)

    def _file(self, place: Place) -> Path:
        return self.points / f"{place.point}.{ROLES[place.kind]}"


class Striker:
    """Strikes until each place has been struck as often as is wanted.

    Args:
        service: With failpoints.
        wanted: How often, by place.
        action: `kill` or `stop`.
        seed: Decides in which order.
    """

    def __init__(
        self, service: ServiceUnderFault, wanted: Mapping[Place, int], *, action: str, seed: object
    ) -> None:
        self._service, self.wanted, self._action = service, Counter(wanted), action
        self._random = random.Random(str(seed))
        self._stopped: list[tuple[float, int]] = []
        self._provoked = 0.0
        self.began = time.monotonic()
        self.strikes: list[Strike] = []
        self._armouries = [Armoury(one, service.points / one.name) for one in service.processes]

    def strike(self, seconds: float, progress: Progress) -> None:
        """Strike; returns when all is done, when no client goes on, or when there is no time left."""
        end = time.monotonic() + seconds
        while self.missing and not progress.over and time.monotonic() < end:
            for armoury in self._armouries:
                self.strikes += (struck := list(armoury.struck()))
                for _ in struck:
                    progress.struck()
                self._stopped += [(one.at + STOPPED_SECONDS, one.pid) for one in struck]
                if self._is_up(armoury.process):
                    self._rearm(armoury)
            self._let_go(time.monotonic())
            self._provoke()
            time.sleep(0.02)
        for armoury in self._armouries:
            armoury.disarm()
            self.strikes += armoury.struck()
        time.sleep(0.1)  # whoever has just taken an arming does what it says
        self._stopped += [(0.0, one.pid) for one in self.strikes]
        self._let_go(float("inf"))

    @property
    def missing(self) -> dict[Place, int]:
        """How often each place is still to be struck."""
        struck = Counter(one.place for one in self.strikes)
        return dict(self.wanted - struck)

    def counted(self) -> Counter[str]:
        """How often a process of each kind was struck."""
        return Counter(f"{self._action} {one.place.kind}" for one in self.strikes)

    def _rearm(self, armoury: Armoury) -> None:
        kinds = self._kinds(armoury)
        # One that is not reached soon in this process may be in another.
        armed = Counter(place for one in self._armouries for place in one.armed if one.is_fresh(place))
        open_ = [
            place
            for place, number in self.missing.items()
            if place.kind in kinds and place not in armoury.armed and armed[place] < number
        ]
        for place in self._random.sample(open_, len(open_)):
            if armoury.fresh(place.kind) < ARMED:
                armoury.arm(place, self._action)

    def _is_up(self, process: Process) -> bool:
        """Whether it has come so far that it does something; else no task would ever end."""
        return process in (self._service.beat, *self._service.front_ends) or process.said(" ready.")

    def _kinds(self, armoury: Armoury) -> Iterable[Kind]:
        if armoury.process in self._service.front_ends:
            return (Kind.FRONT_END,)
        if armoury.process in self._service.workers:
            return (Kind.PARENT, Kind.CHILD)
        return (Kind.BEAT,)

    def _let_go(self, now: float) -> None:
        """Let those go on that have been stopped for long enough; the dead do not mind."""
        for _, pid in (due := [one for one in self._stopped if one[0] <= now]):
            send_signal(pid, signal.SIGCONT)
        self._stopped = [one for one in self._stopped if one not in due]

    def _provoke(self) -> None:
        """Let something happen in whose consequence a point is reached that is still wanted."""
        now = time.monotonic()
        if not all(self._is_up(worker) for worker in self._service.workers):
            self._provoked = now
        wanted = [harm for harm, reaches in PROVOCATIONS.items() if any(map(reaches, self.missing))]
        if wanted and now - self._provoked > PROVOCATION_SECONDS:
            self._provoked = now
            self._random.choice(wanted)(self._random.choice(self._service.workers), self._random)


def _stop_softly(worker: Process, _: random.Random) -> None:
    send_signal(worker.process.pid, signal.SIGTERM)


def _kill(worker: Process, _: random.Random) -> None:
    send_signal(-worker.process.pid, signal.SIGKILL)


def _kill_child(worker: Process, draw: random.Random) -> None:
    if children := worker.children():
        send_signal(draw.choice(children), signal.SIGKILL)


def _hands_back(place: Place) -> bool:
    return place.kind is Kind.CHILD and place.name == "Release"


def _buries(place: Place) -> bool:
    return place.kind is Kind.PARENT and place.name in ("Release", "ChildLoss")


def _finds_what_is_lost(place: Place) -> bool:
    return place.name in ("Reap", "Redispatch")


PROVOCATIONS: Mapping[Callable[[Process, random.Random], None], Callable[[Place], bool]] = {
    _stop_softly: _hands_back,
    _kill_child: _buries,
    _kill: _finds_what_is_lost,
}
"""What is done to a worker, and which places are reached in consequence, there or elsewhere."""
