"""What a test is told when a tool, or the test itself, does what it should not."""

from __future__ import annotations


class RunError(AssertionError):
    """A test expects of a run what it cannot do; the message says what it can."""


class NoResult(RunError):
    """The tool has returned nothing; the message says where the task is instead.

    Its cause is the exception that the tool raised, if it raised one.
    """


class NotDeterministic(RunError):
    """Run again from the top, the tool does not make the same calls; in a worker its task would fail.

    The message says what was recorded, what came now, and what to write instead.
    """


class NotInAStep(UserWarning):
    """The tool reads a clock or draws at random outside of its steps: each of its runs gets another value."""
