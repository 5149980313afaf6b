"""`python -m deploy.grafana` writes the dashboards; `--check` says which are not as the code gives them."""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import ingest_and_solver, migrations, nodes, overview, placement_quality

FOLDER = Path(__file__).parent / "dashboards"


def files() -> dict[str, str]:
    """What the folder holds: a dashboard by its file's name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    pages = (part.page() for part in (overview, placement_quality, migrations, ingest_and_solver, nodes))
    return {f"{page.name}.json": encoder.encode(page.build()) + "\n" for page in pages}


def stale() -> list[str]:
    expected = files()
    found = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def main(arguments: list[str]) -> int:
    names = stale()
    if arguments == ["--check"]:
        for name in names:
            print(f"{FOLDER / name}: not what the code gives, run python -m deploy.grafana", file=sys.stderr)
        return 1 if names else 0
    if arguments:
        print(f"expected --check or nothing, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    expected = files()
    for name in names:
        if name in expected:
            (FOLDER / name).write_text(expected[name], "utf-8")
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
