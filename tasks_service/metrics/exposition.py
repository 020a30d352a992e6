"""What Prometheus reads, made by its own client library: the only module that imports it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import Collector

from .counting import Counter, Gauge, Histogram, Level, Role, Series
from .series import SERIES, Sample

Reader = Callable[[], Iterable[Sample]]
"""Reads gauges, in the thread of whoever asks for them."""

WsgiApp = Callable[..., Iterable[bytes]]


class SeriesCollector(Collector):
    """Hands the series of a role to the client library.

    Args:
        role: Says which are served.
        readers: Read the gauges.
    """

    def __init__(self, role: Role, readers: Sequence[Reader]) -> None:
        self._served = [series for series in SERIES if role in series.roles]
        self._readers = readers

    def describe(self) -> Iterator[Metric]:
        """Name the series, so that none is registered twice; reads no gauge."""
        return (family(series, ()) for series in self._served)

    def collect(self) -> Iterator[Metric]:
        """Read all of them."""
        samples: dict[Series, list[Sample]] = defaultdict(list)
        for read in self._readers:
            for sample in read():
                samples[sample.series].append(sample)
        return (family(series, samples[series]) for series in self._served)


def family(series: Series, samples: Sequence[Sample]) -> Metric:
    """A series as the client library has it; `samples` are the values of a gauge."""
    name, told, labels = series.name, series.help_text, series.labels
    match series:
        case Counter():
            counters = CounterMetricFamily(name, told, labels=labels)
            for values, (number,) in series.cells().items():
                counters.add_metric(values, number)
            return counters
        case Histogram():
            histograms = HistogramMetricFamily(name, told, labels=labels)
            for values, numbers in series.cells().items():
                histograms.add_metric(values, _buckets(series, numbers), sum_value=numbers[-1])
            return histograms
        case Gauge():
            gauges = GaugeMetricFamily(name, told, labels=labels)
            for sample in samples:
                gauges.add_metric(sample.labels, sample.value)
            if isinstance(series, Level):
                gauges.add_metric((), series.value)
            return gauges
    raise TypeError(f"{name} is of no kind that can be served")


def _buckets(series: Histogram, numbers: Sequence[float]) -> list[tuple[str, float]]:
    """The buckets, each with what is in those before it."""
    bounds = [*(str(float(bound)) for bound in series.buckets), "+Inf"]
    total, buckets = 0.0, []
    for bound, number in zip(bounds, numbers[:-1], strict=True):
        total += number
        buckets.append((bound, total))
    return buckets


def exposition(role: Role, readers: Sequence[Reader]) -> WsgiApp:
    """The WSGI application that answers a scrape, with the series of a role and those of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SeriesCollector(role, readers))
    ProcessCollector(registry=registry)
    return make_wsgi_app(registry)
