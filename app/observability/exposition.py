"""All values as a scraper reads them: of every process of this service, or of this one alone."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from app.observability.metrics import FAST, HTTP_DURATION, MULTIPROCESS_DIRECTORY

OPENMETRICS = "application/openmetrics-text"

_Key = tuple[str, str, str]
"""Method, route, upper bound of the bucket."""


class Ended(NamedTuple):
    """A request that was answered; at: in seconds since the epoch."""

    seconds: float
    trace_id: str
    at: float


class Exemplars:
    """Of each bucket of the request durations the newest request of this process, by its trace.

    Kept here, since the values that processes share have no room for them: a scrape shows those of the
    process that answers it. At most one per bucket, so as bounded as the buckets are.
    """

    def __init__(self) -> None:
        self._newest: dict[_Key, Exemplar] = {}
        self._bounds = [floatToGoString(bound) for bound in (*FAST, math.inf)]  # type: ignore[no-untyped-call]

    def note(self, method: str, route: str, ended: Sequence[Ended]) -> None:
        """Requests in the order in which they ended."""
        buckets = np.searchsorted(FAST, [one.seconds for one in ended], side="left")
        newest = np.full(len(self._bounds), -1)
        newest[buckets] = np.arange(len(ended))  # of several the last stays
        for bound, place in zip(self._bounds, newest.tolist(), strict=True):
            if place >= 0:
                one = ended[place]
                self._newest[method, route, bound] = Exemplar({"trace_id": one.trace_id}, one.seconds, one.at)

    def add_to(self, metric: Metric) -> None:
        bucket = f"{metric.name}_bucket"
        metric.samples = [
            sample._replace(exemplar=self._newest.get(_key(sample.labels)))
            if sample.name == bucket
            else sample
            for sample in metric.samples
        ]


def _key(labels: dict[str, str]) -> _Key:
    return labels["method"], labels["route"], labels["le"]


exemplars = Exemplars()

_DURATION = next(iter(HTTP_DURATION.describe())).name


class Known(Collector):
    """What `source` collects, without what is not known (NaN)."""

    def __init__(self, source: Collector, *, with_exemplars: bool = False) -> None:
        self._source = source
        self._with_exemplars = with_exemplars

    def collect(self) -> Iterable[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            if self._with_exemplars and metric.name == _DURATION:
                exemplars.add_to(metric)
            yield metric


def registry(*, with_exemplars: bool = False) -> CollectorRegistry:
    """Of every process of this service, or of this one alone."""
    source: Collector = REGISTRY
    if MULTIPROCESS_DIRECTORY in os.environ:
        source = MultiProcessCollector(None)  # type: ignore[no-untyped-call]
    found = CollectorRegistry()
    found.register(Known(source, with_exemplars=with_exemplars))
    return found


def exposition(accept: str = "") -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics, with exemplars, for who asks for it, else Prometheus'."""
    asked = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if OPENMETRICS in asked:
        text = openmetrics.generate_latest(registry(with_exemplars=True))  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry()), CONTENT_TYPE_PLAIN_0_0_4


def forget_process(directory: str, pid: int) -> None:
    """Drop the gauges of a process that ended from the values shared in `directory`; its counters stay."""
    mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
