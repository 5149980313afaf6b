"""Writes the file that `make test` checks in place of torch: python -m tests.agent.architectures.generate.

A line for each architecture of the installed transformers of which a tiny model can be made.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import transformers

from tests.agent.architectures.models import architectures, build, real_experts
from tests.agent.architectures.saving import read_saved

SPLIT = ("ernie4_5_vl_moe", "ernie4_5_vl_moe_text")
"""Their layers have experts for pictures, which what is kept of a model leaves out."""

FILE = Path(__file__).parent / "transformers.jsonl"


def main() -> None:
    transformers.logging.set_verbosity_error()
    lines = [json.dumps({"transformers": transformers.__version__})]
    for model_type in sorted({*architectures()}.difference(SPLIT)):
        with tempfile.TemporaryDirectory() as directory:
            try:
                model = build(model_type)
                real = real_experts(model)
                model.save_pretrained(directory)
            except Exception as error:  # noqa: BLE001 it says why there is no line for it
                print(f"{model_type}: {type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
                continue
            if real:
                config, tensors = read_saved(Path(directory))
                row = {"model_type": model_type, "experts": real, "config": config, "tensors": tensors}
                lines.append(json.dumps(row, separators=(",", ":")))
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
