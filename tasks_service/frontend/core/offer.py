"""The offer of a service to its clients."""

from __future__ import annotations

from dataclasses import dataclass

from ...authoring.library import Library
from .catalogue import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The tools and the library that a service offers to its clients.

    Attributes:
        name: What clients see as the server's name.
        version: What clients see as the server's version.
        instructions: For the model: what the tools are good for.
        catalogue: The tools that can be called.
        library: Resources, prompts and completions.
        service: The service that sessions at this path are with; empty where there is one path only.
    """

    name: str
    version: str
    instructions: str | None
    catalogue: Catalogue
    library: Library
    service: str = ""
