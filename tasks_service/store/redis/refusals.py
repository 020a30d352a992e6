"""Answers by which a Redis that is there refuses work: what each means, and what an operator does about it.

Some pass by themselves while a caller waits, and are worth another try. Others last until somebody has acted:
then trying on only hides the reason behind a timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    ReadOnlyError,
)


class Refusal(NamedTuple):
    """Why a server takes no work.

    Attributes:
        told: What everybody may know, as the end of a sentence about the task store.
        remedy: What an operator does about it, as a sentence.
        passes: Whether it may be over in a moment.
        is_local: Whether another server may take the work, where there are several.
    """

    told: str
    remedy: str
    passes: bool = False
    is_local: bool = False


_LOADING: Final = Refusal(
    "has just been started and is reading its data",
    "Wait until it has; INFO persistence says how long it will take.",
    passes=True,
)
_DISK: Final = Refusal(
    "cannot write to its disk",
    "Free space on Redis's disk, or mend it; Redis's log and INFO persistence say what has failed.",
)
READ_ONLY: Final = Refusal(
    "is a replica, which takes no writes",
    "Let TASKS_REDIS_URL name its master, or make it one by REPLICAOF NO ONE.",
    is_local=True,
)
"""Answered to every write."""

_LOGIN: Final = Refusal(
    "refuses the login of this service", "Correct the user name and the password in TASKS_REDIS_URL."
)
_DOWN: Final = Refusal(
    "is a cluster of which a part is down",
    "Run redis-cli --cluster check, and bring the nodes back that are missing.",
    passes=True,
)
_CLASSES: Final[Mapping[type[Exception], Refusal]] = {
    AuthenticationError: _LOGIN,
    BusyLoadingError: _LOADING,
    ReadOnlyError: READ_ONLY,
}
"""By the classes of redis-py, which takes the first word off the errors that it has one for."""

_WORDS: Final[Mapping[str, Refusal]] = {
    "BUSY": Refusal(
        "is busy with somebody's script",
        "End the script by SCRIPT KILL, and keep whoever runs such scripts off the server of the tasks.",
        passes=True,
    ),
    "CLUSTERDOWN": _DOWN,
    "LOADING": _LOADING,
    "MASTERDOWN": Refusal(
        "is a replica that has lost its master",
        "Start the master again, or make the replica one by REPLICAOF NO ONE.",
        passes=True,
    ),
    "MISCONF": _DISK,
    "NOAUTH": _LOGIN,
    "NOREPLICAS": Refusal(
        "has too few replicas to take writes",
        "Start the replicas again, or lower min-replicas-to-write.",
        passes=True,
    ),
    "READONLY": READ_ONLY,
    "WRONGPASS": _LOGIN,
}


def refusal_of(error: Exception) -> Refusal | None:
    """What an error says that a server refuses; None if it is about something else."""
    for kind, refusal in _CLASSES.items():
        if isinstance(error, kind):
            return refusal
    return _WORDS.get(cause_of(error).partition(" ")[0])


def cause_of(error: Exception) -> str:
    """What an error says first; of an EXEC that was refused as a whole, what it was refused for."""
    text = str(error)
    return text.partition("because of: ")[2] if isinstance(error, ExecAbortError) else text


def is_replica(replication: object) -> bool:
    """Whether the reply of INFO replication is that of a replica; False if the user may not ask."""
    return isinstance(replication, str) and "role:slave" in replication.splitlines()
