"""Reading `/metrics` as Prometheus does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from tasks_service.metrics.counting import begin_anew, turn_off, turn_on
from tasks_service.metrics.series import SERIES
from tests.kit.servers import free_port

from .waiting import PATIENCE, wait_until


@contextmanager
def counted_from_zero() -> Iterator[None]:
    """Let this process count what is done in the block."""
    begin_anew(SERIES)
    turn_on()
    try:
        yield
    finally:
        turn_off()
        begin_anew(SERIES)


def metrics_port() -> int:
    """A port for `TASKS_METRICS_PORT`: nobody is given it, or one of the two behind it, for anything else."""
    return wait_until(_three_in_a_row)


def _three_in_a_row() -> int | None:
    first, second, third = free_port(), free_port(), free_port()
    return first if (second, third) == (first + 1, first + 2) else None


def page(port: int, key: str | None = None) -> str:
    """What a scrape reads."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    with urlopen(request, timeout=PATIENCE) as response:
        return str(response.read().decode())


class Scrape:
    """The values of one scrape.

    Attributes:
        text: All of it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = {
            (
                sample.name,
                frozenset((name, value) for name, value in sample.labels.items() if value),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """A value by exactly these labels; None if there is none."""
        return self._values.get((name, frozenset(labels.items())))

    def by(self, name: str, label: str) -> Mapping[str, float]:
        """The values of a series that are not zero, summed up by one of its labels."""
        found: dict[str, float] = {}
        for (series, labels), value in self._values.items():
            if series == name and value:
                key = dict(labels).get(label, "")
                found[key] = found.get(key, 0) + value
        return found

    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self._values}


def scrape(port: int, key: str | None = None) -> Scrape:
    """Read the metrics of a process."""
    return Scrape(page(port, key))
