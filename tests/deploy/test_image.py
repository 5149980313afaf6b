"""The image's recipe is well made, and what it runs exists. No container engine is needed, or used."""

import importlib.util
import json
import re
import tomllib

import pytest

from tests.deploy.commands import in_examples, require_command, require_settings
from tests.deploy.tools import DEPLOY, ROOT, program, run

DOCKERFILE = DEPLOY / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Of all stages, in order; continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.splitlines() if line]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage; "" is the last one, which has no name."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for instruction, words in instructions():
        if instruction == "FROM":
            current = stages.setdefault(words.partition(" AS ")[2], [])
        elif instruction != "ARG":
            current.append((instruction, words))
    return stages[name]


def last_stage() -> list[tuple[str, str]]:
    return stage("")


def environment() -> dict[str, str]:
    text = " ".join(words for name, words in last_stage() if name == "ENV")
    return {name: value.strip('"') for name, value in re.findall(r"(\w+)=(\"[^\"]*\"|\S+)", text)}


def test_hadolint_finds_nothing() -> None:
    """The linter of Dockerfiles and of the shell within."""
    run(program("hadolint"), str(DOCKERFILE))


def test_what_is_copied_is_sent() -> None:
    """Each source is in the repository, and .dockerignore lets it through."""
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words for name, words in instructions() if name == "COPY" and not words.startswith("--from")]
    assert copied
    for words in copied:
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in sent, source


@pytest.mark.parametrize("image", ["", "agent"])
def test_it_runs_as_nobody_special(image: str) -> None:
    """The last USER is neither root nor a name that Kubernetes could not check."""
    users = [words for name, words in stage(image) if name == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_its_command_parses_and_its_settings_exist() -> None:
    """Entry point and command are those of the program, and the environment holds settings of it."""
    (entry,) = (json.loads(words) for name, words in last_stage() if name == "ENTRYPOINT")
    (command,) = (json.loads(words) for name, words in last_stage() if name == "CMD")
    assert entry == ["moeplace"]
    require_command(command)
    require_settings(environment())


def test_the_image_of_the_agent_installs_and_runs_the_agent_alone() -> None:
    """It copies nothing of the service, and its command is that of the distribution in agent/."""
    scripts = tomllib.loads((ROOT / "agent" / "pyproject.toml").read_text())["project"]["scripts"]
    (entry,) = (json.loads(words) for name, words in stage("agent") if name == "ENTRYPOINT")
    (command,) = (json.loads(words) for name, words in stage("agent") if name == "CMD")
    assert entry[0] in scripts
    require_command(["agent", *map(in_examples, command)])
    assert [words for name, words in stage("build-agent") if name == "COPY"] == ["agent /src"]


def test_kernels_are_compiled_where_they_are_looked_for() -> None:
    """The modules that compile exist, run as the user who will read the kernels, and the processor that they
    are compiled for is fixed: numba compares its name and features before it takes what is there."""
    stage = last_stage()
    names = [name for name, _ in stage]
    compiling = next(index for index, (name, words) in enumerate(stage) if name == "RUN" and "warm" in words)
    assert names.index("USER") < compiling
    told = environment()
    assert told["NUMBA_CPU_NAME"] == "${KERNEL_CPU}"
    assert told["NUMBA_CPU_FEATURES"] == ""
    assert told["NUMBA_CACHE_DIR"].startswith("/opt/")
    modules = re.findall(r"python -c 'from (\S+) import warm; warm\(\)'", stage[compiling][1])
    assert len(modules) == 3
    assert all(importlib.util.find_spec(module) for module in modules)
