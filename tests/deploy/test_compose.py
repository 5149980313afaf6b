"""compose.yaml is valid, and everything that it names exists."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.commands import require_command, require_settings
from tests.deploy.tools import DEPLOY, package, program, run

COMPOSE = DEPLOY / "compose.yaml"


def spec() -> dict[str, Any]:
    """As it is where none of its variables is set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    assert "$" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def ours() -> dict[str, dict[str, Any]]:
    """The services that run the image."""
    return {name: it for name, it in spec()["services"].items() if "build" in it}


def test_it_is_valid() -> None:
    """By the published specification, merged as Compose merges it."""
    package("compose_spec").PyCompose.from_json(json.dumps(spec())).validate()


def test_services_depend_on_services_that_can_be_healthy() -> None:
    """Whoever waits for health waits for a service that has a check: its own, or the image's."""
    services = spec()["services"]
    for name, service in services.items():
        depends = service.get("depends_on", [])
        for other in depends:
            assert other in services, (name, other)
            if isinstance(depends, dict) and depends[other]["condition"] == "service_healthy":
                checked = services[other].get(
                    "healthcheck", {"image": "has one"} if "build" in services[other] else {}
                )
                assert checked, (name, other)
                assert not checked.get("disable"), (name, other)


def test_commands_parse_and_settings_exist() -> None:
    """Of every service that runs the image."""
    assert set(ours()) == {"api", "worker", "fleet"}
    for service in ours().values():
        require_command(service["command"])
        require_settings(service.get("environment", {}))


def test_what_is_mounted_exists() -> None:
    """Files and folders beside compose.yaml; everything else is a volume that it declares."""
    volumes = set(spec()["volumes"])
    for service in spec()["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in volumes, mount
    build = ours()["api"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_nothing_is_open_to_other_machines() -> None:
    """The API has no tokens here, so its port, and all the others, are on loopback."""
    published = [port for service in spec()["services"].values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_prometheus_asks_the_services_that_there_are() -> None:
    """Names and ports of its targets are those of the services."""
    config = yaml.safe_load((DEPLOY / "compose-prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["moeplace"]["static_configs"][0]["targets"] == ["api:8080"]
    assert "8080" in ours()["api"]["command"]
    (worker,) = jobs["moeplace-worker"]["dns_sd_configs"]
    assert worker["names"] == ["worker"]
    assert str(worker["port"]) in ours()["worker"]["command"]


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """With the rules where the compose file mounts them."""
    (tmp_path / "prometheus.yml").write_text((DEPLOY / "compose-prometheus.yml").read_text())
    (tmp_path / "rules").symlink_to(DEPLOY / "prometheus" / "rules")
    said = run(program("promtool"), "check", "config", str(tmp_path / "prometheus.yml"))
    assert "2 rule files found" in said


def test_images_are_pinned() -> None:
    """Each by a version, ours by a variable."""
    for service in spec()["services"].values():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]
