"""Records the routing of a Hugging Face model as it runs:
`with attach(model, recorder): model.generate(...)`.

Needs torch and transformers 5 or newer (`pip install moeplace-agent[transformers]`).
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from moeplace_agent.hooks.routers import Router, find_routers, moe_layers
from moeplace_agent.telemetry import ForwardPass, Phase, Recorder

__all__ = ["Attachment", "attach", "moe_layers"]

logger = logging.getLogger(__name__)


def phase_by_length(batch: int, length: int) -> Phase:
    """One new token per sequence is decoding; more are a prompt, or a piece of one."""
    return Phase.DECODE if length == 1 else Phase.PREFILL


def attach(
    model: Any,
    recorder: Recorder,
    *,
    phase: Callable[[int, int], Phase] = phase_by_length,
    select: Callable[[str], bool] = lambda name: True,
) -> Attachment:
    """Record every eager forward pass of `model`, from any thread, until `detach`.

    `phase` is told batch size and new tokens per sequence of each pass. `select` takes routers by their
    qualified name, where a model has several stacks of them. Left out are positions that `attention_mask`
    ([batch, tokens]) masks, and, in batches that are being decoded, sequences that have ended and are fed
    padding. Passes of a stack that raise are not recorded, nor are routers called outside one.

    The model never fails for the recorder: what cannot be recorded is logged, and counted in `failures` or,
    where the recorder finds out later, in its `rejected`.

    Raises ValueError where the routers are not found or are not those the recorder was made for.
    """
    return Attachment(model, recorder, phase, select)


class Attachment:
    """The hooks of one `attach`."""

    def __init__(
        self,
        model: Any,
        recorder: Recorder,
        phase: Callable[[int, int], Phase],
        select: Callable[[str], bool],
    ) -> None:
        found = find_routers(model, select)
        shapes = {router.layer: router.shape for router in found.routers}
        if shapes != recorder.layers:
            raise ValueError(
                f"recorder: is for layers {recorder.layers}, expected those of the model, {shapes}"
            )
        self.failures = 0
        """Passes, or layers of them, that could not be recorded."""
        self._recorder = recorder
        self._phase = phase
        self._padding = _padding_id(model)
        self._parameters = tuple(inspect.signature(found.stack.forward).parameters)
        self._running = threading.local()
        self._hooks = [
            found.stack.register_forward_pre_hook(self._begin, with_kwargs=True),
            found.stack.register_forward_hook(self._end),
            *(router.module.register_forward_hook(self._hook(router)) for router in found.routers),
        ]

    def detach(self) -> None:
        """Take the hooks off. Twice is once."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running.step = None
        try:
            self._running.step = self._step(dict(zip(self._parameters, args, strict=False)) | kwargs)
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def _step(self, given: dict[str, Any]) -> ForwardPass:
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        batch, length = (given["inputs_embeds"] if ids is None else ids).shape[:2]
        phase = self._phase(batch, length)
        keep = None
        if mask is not None and getattr(mask, "ndim", 0) == 2 and mask.shape[1] >= length:
            keep = (mask[:, -length:] != 0).reshape(-1)
        if phase is Phase.DECODE and batch > 1 and ids is not None and self._padding is not None:
            living = (ids != self._padding).reshape(-1)
            keep = living if keep is None else keep & living.to(keep.device)
        # What routers return is theirs no more, and `keep` is ours.
        return self._recorder.forward_pass(phase, keep=keep, owned=True)

    def _hook(self, router: Router) -> Callable[[Any, Any, Any], None]:
        def record(module: Any, args: Any, output: Any) -> None:
            step = getattr(self._running, "step", None)
            if step is None:
                return
            try:
                step.record(router.layer, router.ids(output))
            except Exception as error:  # noqa: BLE001
                self._failed(error)

        return record

    def _end(self, module: Any, args: Any, output: Any) -> None:
        step, self._running.step = getattr(self._running, "step", None), None
        if step is None:
            return
        try:
            step.finish()
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            logger.error("routing not recorded, the model goes on: %s", error, exc_info=error)


def _padding_id(model: Any) -> int | None:
    """What `generate` feeds to sequences that have ended: the padding token, else the first of those that
    end a text."""
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        for name in ("pad_token_id", "eos_token_id"):
            token = getattr(config, name, None)
            if token is not None:
                return int(token[0] if isinstance(token, list) else token)
    return None
