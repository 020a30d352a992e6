"""Which failpoints there are, and which kinds of process reach them; a test compares it with the code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """A kind of process."""

    FRONT_END = "front end"
    PARENT = "worker's parent"
    CHILD = "pool child"
    BEAT = "beat"
    REPAIR = "repair"


F, P, C = Kind.FRONT_END, Kind.PARENT, Kind.CHILD

POINTS: Mapping[str, tuple[Kind, ...]] = {
    # Events: decided and not yet sent, and answered by EXEC.
    "Create": (F,),
    "MakeVisible": (F,),
    "AnswerInput": (F,),
    "Cancel": (F,),
    "CallerLeft": (F,),
    "CallerReturned": (F,),
    "Claim": (C,),
    "Renew": (C,),
    "Checkpoint": (C,),
    "RequestInput": (C,),
    "Sleep": (C,),
    "Retry": (C,),
    "CompleteWithResult": (C,),
    "FailWithError": (C,),
    "Release": (P, C),
    # In the middle of each index of a sweep; a child does what beat asks for, and expiry is beat's alone.
    "Redispatch": (P, C),
    "DeadlinePassed": (P, C),
    "Reap": (P, C),
    "Expire": (C,),
    # After an end that gave a slot back. Front ends (a cancellation) and sweeps of parents come here as well,
    # so rarely that no campaign can wait for it; what they do here is what a child does.
    "GrantSlot": (C,),
    # No campaign comes here: workers that have lost a tool, an operator's command.
    "ExplainWait": (),
    "CancelByOperator": (),
    "RepairRecord": (Kind.REPAIR,),
    # An answer that is one document; a part of a stream.
    "Answer": (F,),
    "Stream": (F,),
    # A row of a session is written, and has been.
    "Session": (F,),
    # A change of a task has been heard.
    "Change": (F, C),
    # A message for a broker that is elsewhere.
    "Publication": (F, P, C),
    # A message was received and its lease drawn; a child has taken it.
    "Handover": (P,),
    "Acknowledgement": (P,),
    # A child has died, and its task is to be handed back.
    "ChildLoss": (P,),
    "Body": (C,),
    "Report": (C,),
    "Sweep": (P, C),
    "Beat": (Kind.BEAT,),
}
"""By the name of what is about to be done, or has been: `before` and `after` are a point each."""

SIDES = ("before", "after")


class Place(NamedTuple):
    """A point in a kind of process."""

    point: str
    kind: Kind

    @property
    def name(self) -> str:
        """What is about to be done, or has been."""
        return self.point.partition(".")[0]


def places() -> Iterator[Place]:
    """Every point of every kind of process that reaches it."""
    for name, kinds in POINTS.items():
        for side in SIDES:
            yield from (Place(f"{name}.{side}", kind) for kind in kinds)
