"""Where the experts are among a checkpoint's tensors, by the tensors' names.

Four ways are in use.

*Separate*: every expert has tensors of its own, numbered in their names (Mixtral
`block_sparse_moe.experts.7.w1.weight`, Qwen3-MoE and DeepSeek `mlp.experts.7.gate_proj.weight`, NLLB
`ffn.experts.expert_7.fc1.weight`), scales of quantized weights beside them.

*Listed*: the number stands behind the matrix (`mlp.experts.gate_up_projs.7.weight`, as quantizers that know
only linear layers write GPT-OSS).

*Fused*: one tensor below `experts` holds a matrix of all experts of a layer, one expert after another along
its first axis, so that each is a consecutive part of it (GPT-OSS `mlp.experts.gate_up_proj_blocks`,
Nemotron-H `mixer.experts.up_proj`, Llama 4 and transformers 5 `experts.gate_up_proj`). DBRX has the rows of
all experts in one axis.

*In the block*: fused likewise, and nothing is called experts (Granite-MoE
`block_sparse_moe.input_linear.weight`, Step 3.5 `moe.gate_proj.weight`).

Whatever else belongs to a matrix, a scale or a bias, goes with it: cut in the same way where its first axis
counts the experts, whole with every expert where it is one value for all. Experts of attention (JetMoE),
shared experts, which every token uses, and routers are no experts here. What looks like a part of an expert
and is not understood is refused by its name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

_LAYER = r"(?P<tower>(?:.+\.)?)(?P<stack>\w*layers|\w*blocks?|h)\.(?P<layer>\d+)\."
_IN_LAYER = _LAYER + r"(?P<block>(?:.+\.)?)"
_SEPARATE = re.compile(_IN_LAYER + r"experts\.(?:expert_)?(?P<expert>\d+)\.(?P<tensor>.+)")
_LISTED = re.compile(
    _IN_LAYER + r"experts\.(?P<matrix>[A-Za-z_]\w*)\.(?P<expert>\d+)(?:\.(?P<tensor>[A-Za-z_].*))?"
)
_FUSED = re.compile(_IN_LAYER + r"experts\.(?P<tensor>[A-Za-z_].*)")
_IN_BLOCK = re.compile(
    _IN_LAYER
    + r"(?P<tensor>(?:input_linear|output_linear|(?:gate_|up_|gate_up_|down_)proj|w[123]|w13|fc[123])"
    r"(?:[._].+)?)"
)
_ANY = re.compile(_LAYER + r"(?P<rest>.+)")
_MATRIX = re.compile(
    r"(input_linear|output_linear|(?:gate_|up_|gate_up_|down_)proj|w[123]|w13|fc[123])(\.weight)?"
)

_ATTENTION = re.compile(r"(?:^|[._])(?:attn|attention)(?:[._]|$)")
_SHARED = re.compile(r"(?:^|[._])shared(?:[._]|$)|(?:^|\.)share_expert")
_PREDICTION = re.compile(r"(?:^|[._])(?:mtp|nextn|eagle|draft)(?:[._]|$)")
_OTHERS = re.compile(
    r"(?:^|\.)(?:gate|router|wg|classifier|moe_statics)(?:\.|_bias|$)|correction_bias|expert_bias|router|norm"
    r"|latent_proj|^shared|^bias$"
)
"""What stands beside experts, or among them, and is no part of one."""


class UnknownLayout(ValueError):
    """The experts cannot be found; in words."""


class Part(NamedTuple):
    """One tensor of an expert: the whole of tensor `source`, or part `entry` of `entries` along its first
    axis. The axis goes where it counts the experts, and is divided where it has rows of all of them."""

    name: str
    source: str
    entry: int | None = None
    entries: int = 1


@dataclass(frozen=True)
class Layout:
    """`layers[layer][expert]` are the expert's tensors, by name; experts are numbered without a gap.
    `left_out`: towers and layers that have experts and are no part of the model proper."""

    layers: Mapping[int, tuple[tuple[Part, ...], ...]]
    left_out: tuple[str, ...]


class _Place(NamedTuple):
    """The module that experts lie in, as the parts of its name."""

    tower: str
    stack: str
    layer: int
    block: str


def find_experts(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    layers: int | None,
    experts: int | None = None,
    below: str | None = None,
) -> Layout:
    """The experts among the tensors `shapes`, in layers below `layers` (those beyond belong to multi-token
    prediction; None: all).

    `experts`: how many the configuration says each layer has, where it says one number. `below`: take only
    those whose names begin so. Raises `UnknownLayout` where there are none, or where they are named in a way
    that is not understood.
    """
    left_out: dict[str, None] = {}
    ways: dict[str, list[re.Match[str]]] = {way: [] for way in _WAYS}
    attention = None
    for name, shape in shapes.items():
        way, match = _way(name, shape)
        if match is None or (below is not None and not name.startswith(below)):
            continue
        if _ATTENTION.search(match["block"]):
            attention = attention or name
        elif _behind(match, layers):
            left_out[f"{match['tower']}{match['stack']}.{match['layer']}"] = None
        else:
            ways[way].append(match)
    found = [matches for matches in ways.values() if matches]
    if len(found) > 1:
        raise UnknownLayout(
            f"both {found[0][0].string} and {found[1][0].string} look like experts: expected one way of "
            "naming"
        )
    matches = found[0] if found else list(_in_block(shapes, layers, experts, below))
    if not matches:
        raise UnknownLayout(_nothing(attention))
    blocks = _one_place(matches)
    cut = _numbered(matches) if "expert" in matches[0].re.groupindex else _fused(matches, shapes, experts)
    taken = {match.string for match in matches}
    _check_beside(shapes, taken, blocks, {layer: len(each) for layer, each in cut.items()})
    return Layout(cut, tuple(left_out))


_WAYS = {"separate": _SEPARATE, "listed": _LISTED, "fused": _FUSED}


def _way(name: str, shape: tuple[int, ...]) -> tuple[str, re.Match[str] | None]:
    """How a part of an expert is named; None for everything else."""
    for way, pattern in _WAYS.items():
        match = pattern.fullmatch(name)
        if match is not None:
            routes = way == "fused" and _is_other(match["tensor"], shape)
            return ("", None) if routes or _SHARED.search(match["block"]) else (way, match)
    return "", None


def _is_other(tensor: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor beside or among the experts is known to be no part of one. Routers and norms have no
    third axis."""
    return len(shape) < 3 and _OTHERS.search(tensor) is not None


def _behind(match: re.Match[str], layers: int | None) -> bool:
    """Whether it belongs to multi-token prediction."""
    tower = match["tower"] + match["stack"]
    return _PREDICTION.search(tower) is not None or (layers is not None and int(match["layer"]) >= layers)


def _nothing(attention: str | None) -> str:
    words = (
        "no tensor is named like an expert: expected layers.N...experts.M.NAME, or for experts fused in one "
        "tensor layers.N...experts.gate_up_proj or layers.N.block_sparse_moe.input_linear.weight"
    )
    return words if attention is None else f"{words}; experts of attention ({attention}) are not served"


def _in_block(
    shapes: Mapping[str, tuple[int, ...]], layers: int | None, experts: int | None, below: str | None
) -> Iterator[re.Match[str]]:
    """The tensors of blocks that have fused matrices, and no module called experts."""
    matches = []
    for name in shapes:
        match = _IN_BLOCK.fullmatch(name)
        if (
            match is not None
            and match["block"]
            and not any(words.search(match["block"]) for words in (_ATTENTION, _SHARED))
            and not _behind(match, layers)
            and (below is None or name.startswith(below))
        ):
            matches.append(match)
    blocks = {
        _place(match)
        for match in matches
        if _MATRIX.fullmatch(match["tensor"])
        and len(shapes[match.string]) == 3
        and experts in (None, shapes[match.string][0])
    }
    yield from (match for match in matches if _place(match) in blocks)


def _place(match: re.Match[str]) -> _Place:
    return _Place(match["tower"], match["stack"], int(match["layer"]), match["block"])


def _one_place(matches: Sequence[re.Match[str]]) -> dict[tuple[str, str, int], str]:
    """(tower, stack, layer) -> the one block of the layer that has experts."""
    stacks = sorted({(match["tower"], match["stack"]) for match in matches})
    if len(stacks) > 1:
        alike = len({tower for tower, _ in stacks}) < len(stacks)
        names = [f"{tower}{stack}." if alike else tower for tower, stack in stacks]
        raise UnknownLayout(
            f"experts are found below {' and below '.join(map(repr, names))}: expected one. "
            "Give --below with the one to serve"
        )
    blocks: dict[tuple[str, str, int], str] = {}
    for match in matches:
        tower, stack, layer, block = _place(match)
        other = blocks.setdefault((tower, stack, layer), block)
        if other != block:
            raise UnknownLayout(
                f"layer {layer} has two kinds of experts, in {other.rstrip('.')!r} and in "
                f"{block.rstrip('.')!r}: expected one"
            )
    return blocks


def _numbered(matches: Iterable[re.Match[str]]) -> dict[int, tuple[tuple[Part, ...], ...]]:
    experts: dict[int, dict[int, list[Part]]] = defaultdict(lambda: defaultdict(list))
    for match in matches:
        groups = match.groupdict()
        name = ".".join(filter(None, (groups.get("matrix"), groups["tensor"])))
        experts[int(match["layer"])][int(match["expert"])].append(Part(name, match.string))
    for layer, found in experts.items():
        missing = next((expert for expert in range(max(found) + 1) if expert not in found), None)
        if missing is not None:
            raise UnknownLayout(f"layer {layer} has expert {max(found)} and no expert {missing}")
        for expert, parts in found.items():
            names = Counter(part.name for part in parts)
            twice = next((name for name, count in names.items() if count > 1), None)
            if twice is not None:
                raise UnknownLayout(f"expert {expert} of layer {layer} has {twice} twice")
    return {
        layer: tuple(tuple(sorted(found[expert])) for expert in range(len(found)))
        for layer, found in sorted(experts.items())
    }


def _fused(
    matches: Iterable[re.Match[str]], shapes: Mapping[str, tuple[int, ...]], experts: int | None
) -> dict[int, tuple[tuple[Part, ...], ...]]:
    tensors: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for match in matches:
        tensors[int(match["layer"])].append((match["tensor"], match.string))
    layers = {}
    for layer, found in sorted(tensors.items()):
        found.sort()
        sources = [source for _, source in found]
        rows = experts is not None and all(len(shapes[source]) == 2 for source in sources)
        count = experts if rows and experts is not None else _count(sources, shapes)
        layers[layer] = tuple(
            tuple(_part(name, source, shapes[source], expert, count, rows=rows) for name, source in found)
            for expert in range(count)
        )
    return layers


def _count(sources: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of experts: the first axis of every matrix."""
    matrices = [source for source in sources if len(shapes[source]) >= 3]
    if not matrices:
        source = sources[0]
        raise UnknownLayout(
            f"{source} {list(shapes[source])} has no axis that counts the experts, and config.json does "
            "not say how many there are"
        )
    counts = {shapes[source][0] for source in matrices}
    if len(counts) != 1 or 0 in counts:
        shown = ", ".join(f"{source} {list(shapes[source])}" for source in matrices)
        raise UnknownLayout(f"the first axes of {shown} differ, expected the number of experts in each")
    return counts.pop()


def _part(name: str, source: str, shape: tuple[int, ...], expert: int, count: int, *, rows: bool) -> Part:
    if shape and shape[0] == count:
        return Part(name, source, expert, count)
    if prod(shape) == 1:  # one value for all experts
        return Part(name, source)
    if rows and shape[0] % count == 0:
        return Part(name, source, expert, count)
    raise UnknownLayout(
        f"{source} {list(shape)} is among the {count} experts and is not understood: expected {count} as "
        "its first axis, or one value"
    )


def _check_beside(
    shapes: Mapping[str, tuple[int, ...]],
    taken: Set[str],
    blocks: Mapping[tuple[str, str, int], str],
    counts: Mapping[int, int],
) -> None:
    """Refuse what has an entry for each expert, or lies among the experts, unless it is known to be another
    thing: it would be lost."""
    for name, shape in shapes.items():
        match = None if name in taken else _ANY.fullmatch(name)
        if match is None:
            continue
        layer = int(match["layer"])
        block = blocks.get((match["tower"], match["stack"], layer))
        if block is None or not match["rest"].startswith(block):
            continue
        tensor = match["rest"].removeprefix(block)
        among = tensor.startswith("experts.")
        tensor = tensor.removeprefix("experts.")
        if _is_other(tensor, shape) or _ATTENTION.search(tensor):
            continue
        for_each = shape[:1] == (counts[layer],) and (block != "" or "expert" in tensor)
        if among or for_each:
            raise UnknownLayout(f"{name} {list(shape)} is beside the experts and is not understood")
