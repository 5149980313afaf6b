"""How many tokens the routes of a problem were sampled from: what its certificate can say of other tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.statistics.fleet import Fleet
from app.statistics.statistics import Statistics


@dataclass(frozen=True)
class SampleSizes:
    """Over the layers of nodes that call experts there. total: of all of them; least: of the one named."""

    total: float
    median: float
    least: float
    node_id: str
    model_id: str
    layer: int


def sample_sizes(fleet: Fleet, statistics: Statistics, alive: npt.NDArray[np.bool_]) -> SampleSizes | None:
    """Of the nodes in alive bool[N]; None where none of them calls an expert."""
    samples = np.full((len(fleet.nodes), len(fleet.blocks)), np.nan)
    for row in np.flatnonzero(alive).tolist():
        for index, model in enumerate(fleet.models):
            traffic = statistics.traffic.get((fleet.node_ids[row], model.model_id))
            if traffic is None or traffic.digest != model.digest:
                continue
            start, end = fleet.model_block_offset[index : index + 2].tolist()
            column_block = np.repeat(np.arange(end - start), fleet.experts_per_block[start:end])
            calls = np.bincount(column_block, traffic.activations_per_second, minlength=end - start)
            samples[row, start:end] = np.where(calls > 0, traffic.route_samples, np.nan)
    called = np.isfinite(samples)
    if not called.any():
        return None
    row, block = divmod(int(np.argmin(np.where(called, samples, np.inf))), samples.shape[1])
    model_id, layer = fleet.blocks[block]
    return SampleSizes(
        total=float(samples[called].sum()),
        median=float(np.median(samples[called])),
        least=float(samples[row, block]),
        node_id=fleet.node_ids[row],
        model_id=model_id,
        layer=layer,
    )
