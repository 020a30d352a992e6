"""The resources, prompts and completions of a service.

The front end itself answers them, at once; whatever takes long or must not be lost should be a tool.
"""

from __future__ import annotations

from .completion import Completions
from .prompt import PromptRegistry
from .resource import ResourceRegistry


class Library:
    """The resources, prompts and completions of a service.

    Attributes:
        resources: Its resources and templates.
        prompts: Its prompts.
        completions: The completions of their arguments and variables.
    """

    def __init__(self) -> None:
        self.resources = ResourceRegistry()
        self.prompts = PromptRegistry()
        self.completions = Completions(self.prompts, self.resources)
