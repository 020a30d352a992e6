"""Draw the state machine from its own table into `docs/state-machine.md`.

Diagram and table stand between markers in that page; everything around them is written by hand. `--check`
writes nothing and exits with 1 if the page does not show the machine that the code has.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks_service.domain.decide import GONE, TRANSITIONS
from tasks_service.domain.events import Event
from tasks_service.domain.task import Phase

PAGE = Path(__file__).with_name("state-machine.md")
BEGIN, END = "<!-- drawn: {} -->", "<!-- end of drawing -->"
NOWHERE = "[*]"


def name_of(event: type[Event]) -> str:
    """An event as people write it: `RequestInput` is `request_input`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


def node(phase: Phase | None) -> str:
    """A phase as Mermaid names it; before creation and after expiry there is only the dot."""
    return NOWHERE if phase is GONE else phase.value


def arrows() -> dict[tuple[str, str], list[str]]:
    """From and to, with the events that lead there, in the order of the table."""
    found: dict[tuple[str, str], list[str]] = {}
    for source, row in TRANSITIONS.items():
        for event, targets in row.items():
            for target in targets:
                found.setdefault((node(source), node(target)), []).append(name_of(event))
    return found


def diagram() -> Iterator[str]:
    """The state diagram, as lines of Mermaid."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield from (f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows().items())
    yield "```"


def table() -> Iterator[str]:
    """Event by phase, as lines of Markdown."""
    columns = list(TRANSITIONS)
    titles = ["*no task*" if phase is GONE else phase.value for phase in columns]
    yield f"| event | by | {' | '.join(titles)} |"
    yield f"|---|---|{'---|' * len(columns)}"
    events = dict.fromkeys(event for row in TRANSITIONS.values() for event in row)
    for event in events:
        cells = [cell(TRANSITIONS[phase].get(event)) for phase in columns]
        yield f"| `{name_of(event)}` | {event.actor} | {' | '.join(cells)} |"


def cell(targets: tuple[Phase | None, ...] | None) -> str:
    """Where an event may lead; empty where it is refused."""
    return ", ".join("gone" if t is GONE else t.value for t in targets or ())


def drawn(page: str) -> str:
    """The page with its drawings made anew."""
    for title, lines in (("diagram", diagram()), ("table", table())):
        begin = BEGIN.format(title)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(END)
        if not (found and closed):
            raise SystemExit(f"{PAGE.name}: the markers {begin} and {END} are missing; put them back.")
        page = "\n".join([f"{before}{begin}", "", *lines, "", f"{END}{after}"])
    return page


def main() -> int:
    """Draw, or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the page is out of date"
    )
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    now = drawn(page)
    if page == now:
        return 0
    if check:
        sys.stderr.write(f"{PAGE.name} is out of date: run `python docs/draw_state_machine.py`.\n")
        return 1
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
