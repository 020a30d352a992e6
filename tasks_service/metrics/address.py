"""Where the metrics of a process are served."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """Where metrics are served.

    Attributes:
        host: An address of this machine.
        port: Of front ends; see `process.PORTS`.
        key: What readers must send; None: nothing.
    """

    host: str
    port: int
    key: str | None = None
