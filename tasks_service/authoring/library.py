"""What a service offers beside its tools: resources, prompts, and completions of their arguments.

These are answered by the front end itself, at once; whatever takes long or must not be lost is a tool.
"""

from __future__ import annotations

from .completion import Completions
from .prompt import PromptRegistry
from .resource import ResourceRegistry


class Library:
    """All that a service offers beside its tools.

    Attributes:
        resources: What can be read.
        prompts: What can be begun with.
        completions: What completes their arguments.
    """

    def __init__(self) -> None:
        self.resources = ResourceRegistry()
        self.prompts = PromptRegistry()
        self.completions = Completions(self.prompts, self.resources)
