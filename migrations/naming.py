"""What messages call nodes and experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from migrations.model import ORIGIN, PlanError
from solvers.problem import PlacementProblem


@dataclass(frozen=True, slots=True)
class Names:
    """Words for reasons and violations; they change no plan. By index, as the files do, where left out.

    nodes: a word per node, such as "edge-7", said as "node edge-7". blocks: a phrase per block, such as
    "layer 3 of mixtral", said as "expert 5 of layer 3 of mixtral". Plain sequences, so that names can be
    sent to another process.
    """

    nodes: Sequence[str] | None = None
    blocks: Sequence[str] | None = None

    def check(self, problem: PlacementProblem) -> None:
        """Raises `PlanError` where there is not one word per node, or one phrase per block. O(1)."""
        for key, given, expected in (
            ("names.nodes", self.nodes, problem.nodes),
            ("names.blocks", self.blocks, problem.blocks),
        ):
            if given is not None and len(given) != expected:
                raise PlanError(f"{key}: has {len(given)} entries, expected {expected}")

    def node(self, node: int) -> str:
        """The node in words, "node 3" by index; "the origin" for ORIGIN."""
        if node == ORIGIN:
            return "the origin"
        return f"node {node if self.nodes is None else self.nodes[node]}"

    def expert(self, problem: PlacementProblem, column: int) -> str:
        """The expert of a column in words, "expert 5 of block 3" by index."""
        block = int(problem.column_block[column])
        return self.expert_of(block, column - int(problem.block_offset[block]))

    def expert_of(self, block: int, expert: int) -> str:
        """As `expert`, by block and id within the block."""
        return f"expert {expert} of {f'block {block}' if self.blocks is None else self.blocks[block]}"


BY_INDEX: Final = Names()
