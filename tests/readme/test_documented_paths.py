"""What the documentation names in the repository exists: files, folders, modules, links and anchors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "deploy/**/*.md",
        "benchmarks/results/*.md",
        "agent/**/*.md",
        "lab/**/*.md",
    )
    for page in ROOT.glob(pattern)
)
FOLDERS = "agent|app|benchmarks|deploy|docs|lab|migrations|moeplace|openapi|solvers|tests"
IN_BACKTICKS = re.compile(rf"`(?:\S+ )*?((?:{FOLDERS})/[\w./\-]+)(?:::\w+)?`")
MODULE = re.compile(r"`(?:python -m )?((?:agent|app|benchmarks|lab|migrations|solvers)(?:\.[a-z_]+)+)[`(: ]")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]+)?\)")
NOT_THERE = {"benchmarks/results/soak-failures", "benchmarks/results/NAME.md"}
"""What a command leaves there, and a name that stands for others."""


def _anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        found.add("#" + re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _exists(module: str) -> bool:
    """Whether the folder and the first part of a dotted name exist, as a package or a module."""
    folder, part, *_ = module.split(".")
    return (ROOT / folder / part).is_dir() or (ROOT / folder / f"{part}.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_exist(page: Path) -> None:
    """Every path and module of the repository that a page names in backticks exists."""
    text = page.read_text("utf-8")
    paths = {path.rstrip("/.") for path in IN_BACKTICKS.findall(text)} - NOT_THERE
    missing = sorted(path for path in paths if not (ROOT / path).exists())
    missing += sorted(module for module in set(MODULE.findall(text)) if not _exists(module))
    assert not missing, f"{_name(page)} names what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_their_anchors_exist(page: Path) -> None:
    """Every relative link of a page leads to a file, and its anchor to a heading of that file."""
    broken = []
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        file = page if not target else (page.parent / target).resolve()
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            broken.append(target + anchor)
    assert not broken, f"{_name(page)} links to what is not there: {', '.join(broken)}"
