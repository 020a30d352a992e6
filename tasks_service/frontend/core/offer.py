"""The offer of a service to its clients."""

from __future__ import annotations

from dataclasses import dataclass

from ...authoring.library import Library
from ...domain.tools import OfferedTool, ToolSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The tools and the library that a service offers to its clients.

    Attributes:
        name: What clients see as the server's name.
        version: What clients see as the server's version.
        instructions: For the model: what the tools are good for.
        tools: What can be called.
        library: Resources, prompts and completions.
    """

    name: str
    version: str
    instructions: str | None
    tools: ToolSet[OfferedTool]
    library: Library
