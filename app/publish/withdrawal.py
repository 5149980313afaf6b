"""Make before break: a copy leaves the routing tables, and only when every node has switched may it go.

Each set of routing tables has a number, ever rising. A copy withdrawn with set k is in no table of any set
from k on, so it is free once every live node uses a table that was still current in set k or later. Tables
that did not change keep their version from set to set.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

REMEMBERED_VERSIONS = 64
"""Versions per node whose set is known; a node that uses an older one is taken not to have switched."""


class HeldCopy(NamedTuple):
    node_id: str
    model_id: str
    layer: int
    expert: int


class Withdrawal:
    """Which copies are kept out of routing tables, and whether nodes have switched."""

    def __init__(self) -> None:
        self._copies: dict[HeldCopy, int | None] = {}
        self._withheld: dict[HeldCopy, float] = {}
        self._set = 0
        self._versions: dict[str, OrderedDict[str, int]] = {}
        self.revision = 0
        """Rises with every change of `copies`: routing tables are to be made anew."""

    @property
    def copies(self) -> frozenset[HeldCopy]:
        """To be left out of all routing tables."""
        return frozenset(self._copies) | frozenset(self._withheld)

    def withdraw(self, copies: Iterable[HeldCopy]) -> None:
        for copy in copies:
            if copy not in self._copies:
                self.revision += 1  # although a withheld copy is left out already: to know in which set
                self._copies[copy] = None

    def restrict(self, copies: frozenset[HeldCopy]) -> None:
        """Keep only these; the others may be routed to again."""
        for copy in self._copies.keys() - copies:
            del self._copies[copy]
            if copy not in self._withheld:
                self.revision += 1

    def withhold(self, copies: Iterable[HeldCopy], until: float) -> None:
        """Leave out copies whose nodes may be dropping them although nobody asks for it any more."""
        for copy in copies:
            if copy not in self._copies and copy not in self._withheld:
                self.revision += 1
            self._withheld[copy] = until

    def readmit(self, now: float, is_over: Callable[[str], bool] = lambda _: False) -> None:
        """Those whose time is up, and those of nodes that `is_over` says go by orders without the drop."""
        for copy in [copy for copy, until in self._withheld.items() if until <= now or is_over(copy.node_id)]:
            del self._withheld[copy]
            if copy not in self._copies:
                self.revision += 1

    def tables_made(self, versions: Mapping[str, str], left_out: frozenset[HeldCopy]) -> None:
        """A new set of tables is in force: node_id -> version, made without the copies `left_out`."""
        self._set += 1
        for copy, since in self._copies.items():
            if copy not in left_out:
                self._copies[copy] = None
            elif since is None:
                self._copies[copy] = self._set
        for node_id in self._versions.keys() - versions.keys():
            del self._versions[node_id]
        for node_id, version in versions.items():
            known = self._versions.setdefault(node_id, OrderedDict())
            known[version] = self._set
            known.move_to_end(version)
            while len(known) > REMEMBERED_VERSIONS:
                known.popitem(last=False)

    def behind(self, copy: HeldCopy, in_use: Mapping[str, str | None]) -> list[str]:
        """Nodes (of `in_use`: live node -> version it routes by) that may still route to the copy."""
        since = self._copies.get(copy)
        if since is None:
            return sorted(in_use)
        return sorted(
            node_id for node_id, version in in_use.items() if self.last_set(node_id, version) < since
        )

    def last_set(self, node_id: str, version: str | None) -> int:
        """The last set in which this version was the node's table; 0 for one that is not known."""
        if version is None:
            return 0
        known = self._versions.get(node_id)
        return 0 if known is None else known.get(version, 0)
