"""What is wrong with a configuration."""

from __future__ import annotations


class ConfigFault(ValueError):
    """A config.json that cannot be read, or whose experts' bytes are not known.

    `place`: the key below the configuration, as `text_config/num_experts`; empty for the whole. `code`: a
    constant for programs.
    """

    def __init__(self, place: str, detail: str, code: str) -> None:
        super().__init__(f"{place}: {detail}" if place else detail)
        self.place = place
        self.detail = detail
        self.code = code
