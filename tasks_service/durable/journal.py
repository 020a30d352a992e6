"""The journal of a task, and the replay of its entries.

After a task was parked, slept or lost its worker, its tool runs again from the top. Each call whose outcome
is in the journal returns it at once; the tool goes on at the first call that has none.

In a sync tool the calls come in one order, so the nth call must match the nth entry. In an async tool
branches may overtake one another, so an entry is found by its kind, its name and how often that name was used
before. Either way, an entry of another kind, name or digest than the call means that the tool's code has
changed. The task then fails, rather than take another call's value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..domain.errors import ConfigurationError, HistoryMismatch
from ..domain.limits import valid_text
from ..domain.task import EntryKind, JournalEntry

_NUMBERED = re.compile(r"#\d+$")

_OTHER: Mapping[EntryKind, str] = {
    EntryKind.STEP: "other arguments",
    EntryKind.ANSWER: "another schema",
    EntryKind.TIMER: "another purpose",
}
"""The difference behind two digests of one name, by kind; for error messages."""


class Call(NamedTuple):
    """A call on the context that the journal may hold an outcome of.

    Attributes:
        kind: What is called.
        name: The name of this use.
        digest: Of what must not change: a step's arguments, a question's schema.
        compared: What the digest is of, as JSON text, for those who explain a difference; empty if unknown.
    """

    kind: EntryKind
    name: str
    digest: str
    compared: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


class Journal:
    """The entries of a task, and which of them calls of this attempt have matched.

    Args:
        entries: The entries as of the claim.
        ordered: Whether calls must come in the order of the entries, as in sync tools.
    """

    def __init__(self, entries: Sequence[JournalEntry], *, ordered: bool) -> None:
        self._entries = list(entries)
        self._ordered = ordered
        self._matched = [False] * len(self._entries)
        self._uses: Counter[tuple[EntryKind, str]] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def unmatched(self) -> tuple[JournalEntry, ...]:
        """The entries that no call of this attempt has matched yet."""
        return tuple(entry for entry, met in zip(self._entries, self._matched, strict=True) if not met)

    def name_of_use(self, kind: EntryKind, name: str) -> str:
        """Count a use of a name and return the name of that use: `name`, then `name#2`, `name#3`.

        Raises:
            ConfigurationError: The name is no text, is empty, or looks like the repeated use of another.
        """
        if not isinstance(name, str) or not name or valid_text(name) != name or _NUMBERED.search(name):
            raise ConfigurationError(
                f"The {kind} cannot be called {name!r}: names are texts, not empty, and those that end in # "
                "and a number stand for repeated uses"
            )
        self._uses[kind, name] += 1
        use = self._uses[kind, name]
        return name if use == 1 else f"{name}#{use}"

    def take_answers(self, digests: Mapping[str, str]) -> dict[str, JournalEntry]:
        """Take the answers that were given before the task existed; they count as matched and used.

        Args:
            digests: The digests of the questions that the tool declares, by name.

        Returns:
            The entries by name, up to the first whose question has changed since or was not asked.
        """
        taken = {}
        for index, entry in enumerate(self._entries):
            if entry.kind is not EntryKind.ANSWER or entry.digest != digests.get(entry.name):
                break
            self._matched[index] = True
            self._uses[entry.kind, entry.name] += 1
            taken[entry.name] = entry
        return taken

    def match(self, calls: Sequence[Call]) -> list[JournalEntry] | None:
        """Find the recorded outcomes of calls that were made together.

        Args:
            calls: One call, or all the questions that are asked at once.

        Returns:
            An entry for each call, in their order; None if none of them is recorded yet.

        Raises:
            HistoryMismatch: The journal does not fit; names the entry, what was expected and what was found.
        """
        open_entries = [index for index, met in enumerate(self._matched) if not met]
        if self._ordered:
            open_entries = open_entries[: len(calls)]
        found = {call: index for call in calls if (index := self._find(call, open_entries)) is not None}
        missed = [call for call in calls if call not in found]
        left = [index for index in open_entries if index not in found.values()]
        if missed and left and self._ordered:
            raise HistoryMismatch(left[0], str(missed[0]), _described(self._entries[left[0]]))
        if missed and found:
            raise HistoryMismatch(len(self._entries), str(missed[0]), "missing")
        if missed:
            return None
        for index in found.values():
            self._matched[index] = True
        return [self._entries[index] for index in found.values()]

    def add(self, entry: JournalEntry) -> None:
        """Add an entry that this attempt has just recorded."""
        self._entries.append(entry)
        self._matched.append(True)

    def since(self, index: int) -> tuple[JournalEntry, ...]:
        """The entries from an index on."""
        return tuple(self._entries[index:])

    def finish(self) -> None:
        """Check, at the end of the tool, that every entry was matched.

        Raises:
            HistoryMismatch: An entry was not.
        """
        for index, met in enumerate(self._matched):
            if not met:
                entry = self._entries[index]
                raise HistoryMismatch(index, "the end of the tool", _described(entry))

    def _find(self, call: Call, among: Sequence[int]) -> int | None:
        for index in among:
            entry = self._entries[index]
            if (entry.kind, entry.name) == (call.kind, call.name):
                if entry.digest != call.digest:
                    raise HistoryMismatch(index, f"{call} as it is now", f"{call} with {_OTHER[call.kind]}")
                return index
        return None


def _described(entry: JournalEntry) -> str:
    return f"{entry.kind} {entry.name!r}"
