"""Counts and samples what a model's tokens activate, at a cost that the model doesn't notice."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from moeplace_agent.telemetry.arrays import DeviceCopy, arrive, one_after_another, without
from moeplace_agent.telemetry.forward_pass import ForwardPass, assembled
from moeplace_agent.telemetry.repeats import tells_tokens_apart
from moeplace_agent.telemetry.tally import Layout, Tally, layer_window
from moeplace_agent.telemetry.windows import Activity, LayerShape, Phase, Window

logger = logging.getLogger(__name__)

_MAX_IDLE = timedelta(minutes=10)
"""The service takes no windows longer than an hour."""

_MAX_ON_THEIR_WAY = 256
"""Copies from a device waited for at once; the oldest of more has long arrived."""


_MAX_UNSEEN_PASSES = 32
_MAX_UNSEEN_TOKENS = 512
"""Passes whose ids are owned are looked at together: code that runs in a loop costs a tenth of code that a
pass through the model has driven out of the processor's caches."""


class _Pass(NamedTuple):
    phase: Phase
    layers: dict[int, Any]
    keep: Any


def _alike(finished: _Pass) -> object:
    """The same for passes that may be looked at as if they were one."""
    if finished.keep is not None:
        return id(finished)
    return finished.phase, tuple(finished.layers)


def _joined(passes: list[_Pass]) -> _Pass:
    """Passes that are alike, as one of all their tokens."""
    if len(passes) == 1:
        return passes[0]
    layers = {layer: one_after_another([each.layers[layer] for each in passes]) for layer in passes[0].layers}
    return _Pass(passes[0].phase, layers, None)


class _Share(NamedTuple):
    """What is tallied together: tokens of one phase, over one layer, or over all where `layer` is None."""

    phase: Phase
    layer: int | None


class Recorder:
    """Counts every activation and keeps a uniform sample of whole tokens' routes, in bounded memory.

    Feed it with `forward_pass` (layer by layer), `record_tokens` (all layers at once), or `record` and
    `add_tokens` (single layers). Ids are numpy arrays, lists or torch tensors of any integer type; -1 is no
    expert. Tensors on a GPU are copied without waiting and counted when they have arrived. Every method may
    be called from any thread; `cut` swaps the window out and does its own work beside the recording.

    Of whole tokens that are routed alike in every layer, no more than `repeat_share` of the window's tokens
    count, once there are 64: engines warm up by running one token thousands of times. None counts all. Single
    layers given to `record` are never left out, and models whose routing has less than 32 bits a token, since
    there equal routing is no sign of repetition. A model that loops on a text is not caught: its routing
    drifts with every turn. Leave out what the engine knows to be no traffic with `paused` or `keep`.
    """

    def __init__(
        self,
        model_id: str,
        layers: Mapping[int, LayerShape],
        *,
        routes_per_layer: int = 512,
        posted: Collection[Phase] = tuple(Phase),
        repeat_share: float | None = 0.05,
        fused_shared_experts: int = 0,
        seed: int | None = None,
        now: datetime | None = None,
    ) -> None:
        """`layers`: true layer number to shape. `posted`: the phases that the service is told of, all by
        default; the others are in `Window.phases` only. `fused_shared_experts`: how many ids of shared
        experts the engine hands in with a token's `top_k` in every layer, as numbers from `experts` on: they
        are left out, and counted in `Window.beyond_experts`. `now`: when the first window starts."""
        if not layers:
            raise ValueError("layers: is empty, expected at least one")
        if routes_per_layer < 0:
            raise ValueError(f"routes_per_layer: is {routes_per_layer}, expected at least 0")
        if repeat_share is not None and not 0 < repeat_share <= 1:
            raise ValueError(f"repeat_share: is {repeat_share}, expected more than 0 and at most 1")
        if fused_shared_experts < 0:
            raise ValueError(f"fused_shared_experts: is {fused_shared_experts}, expected at least 0")
        self.model_id = model_id
        self.layers = dict(sorted(layers.items()))
        self._whole = Layout(self.layers, fused_shared_experts)
        self._layouts: dict[int | None, Layout] = {None: self._whole}
        self._layouts |= {
            layer: Layout({layer: shape}, fused_shared_experts) for layer, shape in self.layers.items()
        }
        self._samples = routes_per_layer
        self._posted = frozenset(posted)
        self._share = repeat_share if tells_tokens_apart(list(self.layers.values())) else None
        self._random = np.random.default_rng(seed)
        self._started = now or datetime.now(UTC)
        self._pauses = 0
        self._lock = threading.Lock()
        self._unseen: list[_Pass] = []
        self._unseen_tokens = 0
        self._on_their_way: deque[tuple[_Share, DeviceCopy]] = deque()
        self.rejected = 0
        """Passes that were taken and turned out wrong: they are not counted, the first of each window is
        logged."""
        self._begin()

    def _begin(self) -> None:
        self._tallies: dict[_Share, Tally] = {}
        self._tokens = dict.fromkeys(Phase, 0)
        self._rejection_logged = False
        self._beyond_experts = 0

    @property
    def tokens(self) -> int:
        """Tokens of the window being recorded, of all phases, those on their way from a device excepted."""
        self._examine()
        with self._lock:
            return sum(self._tokens.values()) + sum(self._whole_tokens(phase) for phase in Phase)

    def _whole_tokens(self, phase: Phase) -> int:
        tally = self._tallies.get(_Share(phase, None))
        return 0 if tally is None else tally.tokens

    # --- pausing
    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is recorded inside, by any thread: for warm-up, dummy runs and health probes. May be
        nested."""
        with self._lock:
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1

    # --- recording
    def record_tokens(self, experts: Any, *, phase: Phase = Phase.UNTOLD, keep: Any = None) -> None:
        """Whole tokens: [tokens, layers, top_k], layers in order of their numbers, `top_k` the largest of
        them with -1 in what a layer does not use. Counts the tokens, too. `keep` bool[tokens]: false for
        padding; so is a token without any id.

        Raises ValueError that names what was expected; values that come from a device are checked when they
        are here, and what is wrong goes to the log.
        """
        if not hasattr(experts, "shape"):
            experts = np.asarray(experts)
        expected = (len(self.layers), self._whole.top_k + self._whole.fused)
        if len(experts.shape) != 3 or tuple(experts.shape[1:]) != expected:
            raise ValueError(
                f"experts: have shape {tuple(experts.shape)}, expected (tokens, {expected[0]}, {expected[1]})"
                f"{self._whole.hint() if len(experts.shape) == 3 and experts.shape[2] > expected[1] else ''}"
            )
        if not self._pauses:
            self._take_whole(experts, phase, keep)

    def _take_whole(self, experts: Any, phase: Phase, keep: Any) -> None:
        if keep is not None:
            experts = without(experts, keep)
        self._take(_Share(phase, None), experts)

    def forward_pass(
        self, phase: Phase = Phase.UNTOLD, *, keep: Any = None, owned: bool = False
    ) -> ForwardPass:
        """`with recorder.forward_pass(phase) as step:` and `step.record(layer, ids)` for each layer inside;
        like `record_tokens` at the end.

        `owned`: nobody writes to the ids and `keep` any more. They are then looked at later, many passes at
        once, which costs less; what is wrong with them goes to the log and to `rejected`.
        """
        return ForwardPass(self._whole, owned, lambda layers: self._finish(_Pass(phase, layers, keep), owned))

    def _finish(self, finished: _Pass, owned: bool) -> None:
        if self._pauses:
            return
        if not owned:
            self._take_pass(finished)
            return
        with self._lock:
            self._unseen.append(finished)
            self._unseen_tokens += len(next(iter(finished.layers.values())))
            full = self._unseen_tokens > _MAX_UNSEEN_TOKENS or len(self._unseen) >= _MAX_UNSEEN_PASSES
        if full:
            self._examine()

    def _examine(self) -> None:
        with self._lock:
            unseen, self._unseen, self._unseen_tokens = self._unseen, [], 0
        for _, group in groupby(unseen, key=_alike):
            passes = list(group)
            try:
                self._take_pass(_joined(passes))
            except ValueError:
                for finished in passes:
                    self._take_or_reject(finished)

    def _take_or_reject(self, finished: _Pass) -> None:
        try:
            self._take_pass(finished)
        except ValueError as error:
            with self._lock:
                self._reject(error)

    def _reject(self, error: ValueError) -> None:
        self.rejected += 1
        if not self._rejection_logged:
            self._rejection_logged = True
            logger.error("%s: a pass is not counted: %s", self.model_id, error)

    def _take_pass(self, finished: _Pass) -> None:
        self._take_whole(assembled(self._whole, finished.layers), finished.phase, finished.keep)

    def record(self, layer: int, experts: Any, *, phase: Phase = Phase.UNTOLD) -> None:
        """The top-k ids of one layer for some tokens, [tokens, top_k]. A row that repeats an id is counted,
        and is no route. `add_tokens` tells how many tokens that was for the model.

        Raises ValueError or KeyError that names the layer and what was expected. O(tokens * top_k).
        """
        shape = self.layers.get(layer)
        if shape is None:
            raise KeyError(f"layer {layer}: not a MoE layer of {self.model_id}, expected {list(self.layers)}")
        if self._pauses:
            return
        if not hasattr(experts, "shape"):
            experts = np.asarray(experts)
        expected = self._whole.ids_of(layer)
        if len(experts.shape) != 2 or experts.shape[1] != expected:
            hint = self._whole.hint() if len(experts.shape) == 2 and experts.shape[1] > expected else ""
            raise ValueError(
                f"layer {layer}: ids have shape {tuple(experts.shape)}, expected (tokens, {expected}){hint}"
            )
        self._take(_Share(phase, layer), experts[:, None, :])

    def add_tokens(self, tokens: int, *, phase: Phase = Phase.UNTOLD) -> None:
        """`tokens` more tokens went through the model whose layers were given to `record` one by one; once
        per forward pass, not per layer."""
        if tokens < 0:
            raise ValueError(f"tokens: is {tokens}, expected at least 0")
        with self._lock:
            if not self._pauses:
                self._tokens[phase] += tokens

    def _take(self, share: _Share, experts: Any) -> None:
        if experts.shape[0] == 0:
            return
        try:
            arrived = arrive(experts)
        except TypeError as error:
            where = "experts" if share.layer is None else f"layer {share.layer}"
            raise ValueError(f"{where}: {error}") from None
        if isinstance(arrived, DeviceCopy):
            with self._lock:
                self._on_their_way.append((share, arrived))
                self._land_arrived()
            return
        ids, beyond = self._layouts[share.layer].without_fused(arrived)
        complete = self._layouts[share.layer].check(ids)
        with self._lock:
            self._beyond_experts += beyond
            self._put(share, ids, complete)

    def _land_arrived(self) -> None:
        waiting = self._on_their_way
        while waiting and (waiting[0][1].arrived or len(waiting) > _MAX_ON_THEIR_WAY):
            share, copy = waiting.popleft()
            try:
                ids, beyond = self._layouts[share.layer].without_fused(copy.wait())
                complete = self._layouts[share.layer].check(ids)
            except ValueError as error:
                self._reject(error)
            else:
                self._beyond_experts += beyond
                self._put(share, ids, complete)

    def _put(self, share: _Share, ids: Any, complete: bool) -> None:
        if not complete:
            ids = ids[(ids >= 0).any(axis=(1, 2))]
        tally = self._tallies.get(share)
        if tally is None:
            repeat_share = self._share if share.layer is None else None
            tally = Tally(self._layouts[share.layer], self._samples, self._random, repeat_share)
            self._tallies[share] = tally
        tally.put(ids)

    # --- windows
    def cut(self, now: datetime | None = None) -> Window | None:
        """End the window and begin the next. None when nothing was recorded: the window goes on, since idle
        time belongs to a rate, but no further back than `_MAX_IDLE`."""
        end = now or datetime.now(UTC)
        self._examine()
        with self._lock:
            on_their_way = [copy for _, copy in self._on_their_way]
        for copy in on_their_way:
            copy.wait()
        with self._lock:
            if end <= self._started:
                return None
            self._land_arrived()
            if not self._tallies and not any(self._tokens.values()):
                self._started = max(self._started, end - _MAX_IDLE)
                return None
            for tally in self._tallies.values():
                tally.close()
            start, self._started = self._started, end
            tallies, tokens, beyond_experts = self._tallies, self._tokens, self._beyond_experts
            self._begin()
        return replace(self._window(start, end, tallies, tokens), beyond_experts=beyond_experts)

    def _window(
        self, start: datetime, end: datetime, tallies: dict[_Share, Tally], tokens: dict[Phase, int]
    ) -> Window:
        for share, tally in tallies.items():
            if share.layer is None:
                tokens[share.phase] += tally.tokens
        told = {share.phase for share in tallies} | {phase for phase in Phase if tokens[phase]}
        phases = {phase: self._activity({phase}, tallies, tokens) for phase in Phase if phase in told}
        total = phases[next(iter(told))] if told <= self._posted and len(told) == 1 else None
        if total is None:
            total = self._activity(self._posted, tallies, tokens)
        return Window(
            model_id=self.model_id,
            start_at=start,
            end_at=end,
            tokens=total.tokens,
            layers=total.layers,
            phases=phases,
            repeated=sum(tally.repeated for tally in tallies.values()),
        )

    def _activity(
        self, phases: Collection[Phase], tallies: dict[_Share, Tally], tokens: dict[Phase, int]
    ) -> Activity:
        by_layer: dict[int, list[Any]] = {layer: [] for layer in self.layers}
        for share, tally in tallies.items():
            if share.phase in phases:
                for layer, layer_tally in tally.layers():
                    by_layer[layer].append(layer_tally)
        return Activity(
            sum(tokens[phase] for phase in phases),
            tuple(
                layer_window(layer, self.layers[layer], found, self._samples)
                for layer, found in by_layer.items()
            ),
        )
