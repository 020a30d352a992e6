"""Tools that are known by their definitions alone: a front end offers them without their code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jsonschema.protocols import Validator

from ..domain.limits import DEFAULT_LIMITS, Limits, to_json
from ..domain.task import JsonText
from ..domain.tools import ToolDefinition
from ..durable.json_schema import validator_of
from ..durable.schema_costs import unlinear_patterns
from .json_schemas import read_texts, without_texts
from .schemas import check_by_schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DefinedTool:
    """A tool of which only the definition is here; see `OfferedTool`.

    What its schema cannot say is checked by the worker that runs it.

    Attributes:
        definition: The definition.
    """

    definition: ToolDefinition

    def check_arguments(self, arguments: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> JsonText:
        """See `OfferedTool.check_arguments`."""
        text = to_json("arguments", arguments, maximum=limits.arguments_bytes, depth=limits.depth)
        if self._is_linear:
            read = read_texts(arguments, self._without_texts) if self.definition.reads_texts else arguments
            check_by_schema(self.definition.name, self._validator, read)
        return text

    @cached_property
    def _is_linear(self) -> bool:
        patterns = unlinear_patterns(self.definition.input_schema)
        if patterns:
            named = ", ".join(f"{path}: {pattern!r}" for path, pattern in patterns)
            logger.warning(
                "The arguments of %s are checked by its workers alone: patterns could take for ever: %s",
                self.definition.name,
                named,
            )
        return not patterns

    @cached_property
    def _without_texts(self) -> frozenset[str]:
        return without_texts(self.definition.input_schema)

    @cached_property
    def _validator(self) -> Validator:
        return validator_of(self.definition.input_schema)
