"""Findings about a store's set-up and health."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory use of a store that has a limit.

    Attributes:
        used: Bytes that count against the limit.
        maximum: The limit, in bytes.
    """

    used: int
    maximum: int

    @property
    def percent(self) -> int:
        """The used part of the limit."""
        return self.used * 100 // self.maximum


class Severity(StrEnum):
    """What a finding means for the service."""

    ERROR = "error"
    """It will lose or refuse work: start-up refuses."""
    WARNING = "warning"
    """It works, with a risk that the operator should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the store's set-up that an operator should know.

    Attributes:
        severity: Whether the service can start.
        what: What was found.
        fix: What to do about it.
    """

    severity: Severity
    what: str
    fix: str


def errors_among(found: Iterable[Finding]) -> list[str]:
    """The errors among findings, as sentences for whoever started the process; warnings are logged."""
    errors = []
    for finding in found:
        if finding.severity is Severity.ERROR:
            errors.append(f"{finding.what} {finding.fix}")
        else:
            logger.warning("%s %s", finding.what, finding.fix)
    return errors
