"""When a call that takes long is answered with a text that names its task: before its client gives up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...domain.task import SECOND
from ...domain.tools import ToolDefinition


@dataclass(frozen=True, slots=True)
class HandOverTimes:
    """Seconds that calls wait before they are answered so.

    Attributes:
        usual: Of a client that is not named, and a tool whose author says nothing.
        by_client: Of clients that are known to give up earlier or later, by their names in lower case.
        longest: No call waits for longer.
    """

    usual: float
    by_client: Mapping[str, float]
    longest: float

    def of(self, client: str, tool: ToolDefinition | None = None) -> float:
        """The seconds for a client, as it names itself, and a tool.

        What an author says counts instead of the usual time, but never past that of a client that is named.
        """
        limits = [self.longest]
        if (known := self.by_client.get(client.lower())) is not None:
            limits.append(known)
        if tool is not None and tool.handle_after_ms:
            limits.append(tool.handle_after_ms / SECOND)
        return min(limits) if len(limits) > 1 else min(self.usual, self.longest)
