"""Text of the domains that tiny-moe was trained on: where requests to it begin."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

DOMAINS = ("python", "novels", "man_de", "man_ja", "c", "man_en")


@cache
def text(domain: str) -> npt.NDArray[np.uint8]:
    """The bytes of a domain's text; a ValueError lists the domains there are."""
    if domain not in DOMAINS:
        raise ValueError(f"domain: is {domain!r}, expected one of {', '.join(DOMAINS)}")
    content = (resources.files("lab.tiny_moe") / "texts" / f"{domain}.txt").read_bytes()
    return np.frombuffer(content, np.uint8)
