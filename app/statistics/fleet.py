"""Rows and columns of a cluster: the one mapping between ids of the API and indices of the solvers.

Models in order of model_id, their blocks in order of layer; nodes in order of node_id. The column of an
expert and the row of a node are those of every `PlacementProblem` the service builds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.models.schemas import ModelRecord
from app.nodes.schemas import HeldExperts, NodeHoldings, NodeRecord

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


class UnknownExpert(LookupError):
    """A model, layer, expert or node that is not registered; `part` names which of the four."""

    def __init__(self, part: str, detail: str) -> None:
        super().__init__(detail)
        self.part = part
        self.detail = detail


class ExpertAddress(NamedTuple):
    model_id: str
    layer: int
    expert: int

    @property
    def member(self) -> str:
        """As in the sets of holdings."""
        return f"{self.model_id}/{self.layer}/{self.expert}"


@dataclass(frozen=True, eq=False)
class Fleet:
    """The registered models and nodes in their order, N nodes, B blocks, E experts."""

    models: tuple[ModelRecord, ...]
    nodes: tuple[NodeRecord, ...]

    @classmethod
    def of(cls, models: Iterable[ModelRecord], nodes: Iterable[NodeRecord]) -> "Fleet":
        return cls(
            tuple(sorted(models, key=lambda model: model.model_id)),
            tuple(sorted(nodes, key=lambda node: node.node_id)),
        )

    # --- order
    @cached_property
    def model_ids(self) -> tuple[str, ...]:
        return tuple(model.model_id for model in self.models)

    @cached_property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(node.node_id for node in self.nodes)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """node_id -> row."""
        return {node_id: row for row, node_id in enumerate(self.node_ids)}

    @cached_property
    def model_index(self) -> Mapping[str, int]:
        """model_id -> index into `models`."""
        return {model_id: index for index, model_id in enumerate(self.model_ids)}

    @cached_property
    def blocks(self) -> tuple[tuple[str, int], ...]:
        """(model_id, layer) of each block."""
        return tuple((model.model_id, block.layer) for model in self.models for block in model.blocks)

    @cached_property
    def block_index(self) -> Mapping[tuple[str, int], int]:
        """(model_id, layer) -> block."""
        return {address: block for block, address in enumerate(self.blocks)}

    @cached_property
    def model_block_offset(self) -> Int64:
        """int64[models + 1]: first block of each model."""
        return _offsets([len(model.blocks) for model in self.models])

    @cached_property
    def experts_per_block(self) -> Int64:
        """int64[B]"""
        return _per_block([block.experts for model in self.models for block in model.blocks])

    @cached_property
    def expert_bytes(self) -> Int64:
        """int64[B]"""
        return _per_block([block.expert_bytes for model in self.models for block in model.blocks])

    @cached_property
    def top_k(self) -> Int64:
        """int64[B]"""
        return _per_block([block.top_k for model in self.models for block in model.blocks])

    @cached_property
    def block_offset(self) -> Int64:
        """int64[B + 1]: first column of each block."""
        return _offsets(self.experts_per_block.tolist())

    @property
    def experts(self) -> int:
        """E, the number of columns."""
        return int(self.block_offset[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, E), of every matrix of holdings."""
        return len(self.nodes), self.experts

    # --- addresses
    def row(self, node_id: str) -> int:
        """Raises `UnknownExpert` (part `node_id`)."""
        row = self.rows.get(node_id)
        if row is None:
            raise UnknownExpert("node_id", f"node {node_id!r} is not registered")
        return row

    def block(self, model_id: str, layer: int) -> int:
        """Raises `UnknownExpert` (part `model_id` or `layer`)."""
        block = self.block_index.get((model_id, layer))
        if block is None:
            if model_id not in self.model_index:
                raise UnknownExpert("model_id", f"model {model_id!r} is not registered")
            raise UnknownExpert("layer", f"model {model_id!r} has no MoE layer {layer}")
        return block

    def column(self, model_id: str, layer: int, expert: int) -> int:
        """Raises `UnknownExpert` (part `model_id`, `layer` or `expert`)."""
        block = self.block(model_id, layer)
        experts = int(self.experts_per_block[block])
        if not 0 <= expert < experts:
            raise UnknownExpert(
                "expert",
                f"expert {expert} is not in layer {layer} of {model_id!r}, expected 0..{experts - 1}",
            )
        return int(self.block_offset[block]) + expert

    def address(self, column: int) -> ExpertAddress:
        block = int(np.searchsorted(self.block_offset, column, side="right")) - 1
        model_id, layer = self.blocks[block]
        return ExpertAddress(model_id, layer, column - int(self.block_offset[block]))

    # --- sets of holdings ("model_id/layer/expert")
    @cached_property
    def _members(self) -> Mapping[bytes, int]:
        names: dict[bytes, int] = {}
        for (model_id, layer), start, end in zip(
            self.blocks, self.block_offset[:-1].tolist(), self.block_offset[1:].tolist(), strict=True
        ):
            prefix = f"{model_id}/{layer}/"
            for expert in range(end - start):
                names[f"{prefix}{expert}".encode()] = start + expert
        return names

    def row_of_members(self, members: Iterable[bytes]) -> UInt8:
        """uint8[E] of one node's set of holdings; members of models no longer registered are left out."""
        row = np.zeros(self.experts, np.uint8)
        known = self._members
        columns = [column for column in map(known.get, members) if column is not None]
        row[columns] = 1
        return row

    def unknown_members(self, members: Iterable[bytes]) -> list[ExpertAddress]:
        """Those of a set of holdings that no registered model has, in order."""
        parts = (member.decode().split("/") for member in set(members) - self._members.keys())
        return sorted(ExpertAddress(model_id, int(layer), int(expert)) for model_id, layer, expert in parts)

    def matrix_of_members(self, holdings: Mapping[str, Iterable[bytes]]) -> UInt8:
        """uint8[N, E] of node_id -> set of holdings; nodes not named hold nothing."""
        matrix = np.zeros(self.shape, np.uint8)
        for node_id, members in holdings.items():
            row = self.rows.get(node_id)
            if row is not None:
                matrix[row] = self.row_of_members(members)
        return matrix

    # --- lists of the API
    def columns_of_held(self, held: Iterable[HeldExperts]) -> Int64:
        """int64[len]: columns in the order given; raises `UnknownExpert`."""
        parts: list[Int64] = []
        for entry in held:
            block = self.block(entry.model_id, entry.layer)
            experts = np.asarray(entry.experts, np.int64)
            count = int(self.experts_per_block[block])
            bad = (experts < 0) | (experts >= count)
            if bad.any():
                self.column(entry.model_id, entry.layer, int(experts[int(np.argmax(bad))]))
            parts.append(experts + self.block_offset[block])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def row_of_held(self, held: Iterable[HeldExperts]) -> UInt8:
        """uint8[E]; raises `UnknownExpert`."""
        row = np.zeros(self.experts, np.uint8)
        row[self.columns_of_held(held)] = 1
        return row

    def held_of_columns(self, columns: Int64) -> list[HeldExperts]:
        """Lists of one entry per block, in order; experts ascending and without repetition."""
        columns = np.unique(columns)
        cuts = np.searchsorted(columns, self.block_offset)
        return [
            HeldExperts(
                model_id=self.blocks[block][0],
                layer=self.blocks[block][1],
                experts=(columns[cuts[block] : cuts[block + 1]] - self.block_offset[block]).tolist(),
            )
            for block in np.flatnonzero(np.diff(cuts)).tolist()
        ]

    def held_of_row(self, row: UInt8) -> list[HeldExperts]:
        return self.held_of_columns(np.flatnonzero(row).astype(np.int64))

    def matrix_of_holdings(self, holds: Iterable[NodeHoldings], *, ignore_unknown: bool = False) -> UInt8:
        """uint8[N, E] of a placement's `spec.holds`; nodes not named hold nothing.

        Raises `UnknownExpert`, unless `ignore_unknown`: then nodes, models, layers and experts that are no
        longer registered are left out.
        """
        matrix = np.zeros(self.shape, np.uint8)
        for entry in holds:
            if ignore_unknown:
                if entry.node_id in self.rows:
                    matrix[self.rows[entry.node_id]] = self.row_of_held(self._registered(entry.holds))
            else:
                matrix[self.row(entry.node_id)] = self.row_of_held(entry.holds)
        return matrix

    def _registered(self, held: Iterable[HeldExperts]) -> Iterable[HeldExperts]:
        for entry in held:
            block = self.block_index.get((entry.model_id, entry.layer))
            if block is not None:
                count = int(self.experts_per_block[block])
                yield entry.model_copy(update={"experts": [e for e in entry.experts if 0 <= e < count]})

    def holdings_of_matrix(self, matrix: UInt8) -> list[NodeHoldings]:
        """`spec.holds` of uint8[N, E]: every node once, in order."""
        return [
            NodeHoldings(node_id=node_id, holds=self.held_of_row(matrix[row]))
            for row, node_id in enumerate(self.node_ids)
        ]


def _per_block(values: list[int]) -> Int64:
    array = np.asarray(values, np.int64)
    array.flags.writeable = False
    return array


def _offsets(sizes: list[int]) -> Int64:
    offset = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(np.asarray(sizes, np.int64), out=offset[1:])
    offset.flags.writeable = False
    return offset
