"""What the supervisor tells its children is what it was told."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.config import Settings
from app.supervisor.serve import variables_of
from moeplace_agent.logs import LogFormat


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that reads its variables has the settings of its supervisor, each of them changed here."""
    changed = {
        "redis_url": "unix:///run/it's here/valkey.sock",
        "data_dir": Path("/var/lib/moe place"),
        "embedded_server": Path("/opt/valkey/bin/valkey-server"),
        "log_format": LogFormat.JSON,
        "log_level": "debug",
        "host": "::1",
        "operator_token_file": Path("/run/secrets/operator token"),
        "tls_certificate": Path("/etc/moeplace/tls.crt"),
        "tls_key": Path("/etc/moeplace/tls.key"),
        "trusted_proxies": "10.0.0.0/8, fd00::1",
        "allowed_hosts": "fleet.example, 10.0.0.7",
        # With a token it would be refused.
        "allow_unauthenticated": False,
        "operator_token": None,
    }
    defaults = Settings()
    for name in Settings.model_fields:
        before = getattr(defaults, name)
        if name not in changed:
            changed[name] = (not before) if isinstance(before, bool) else before + 1
    settings = Settings.model_validate(changed)
    for variable, value in variables_of(settings).items():
        monkeypatch.setenv(variable, value)
    assert Settings() == settings
    unchanged = {
        name for name in Settings.model_fields if getattr(Settings(), name) == getattr(defaults, name)
    }
    assert unchanged == {"allow_unauthenticated", "operator_token"}


def test_a_secret_survives_the_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's token reaches the children as it is, though settings print it as stars."""
    settings = Settings(operator_token=SecretStr("s" * 40))
    assert "sss" not in repr(settings)
    for variable, value in variables_of(settings).items():
        monkeypatch.setenv(variable, value)
    assert Settings().operator_token == settings.operator_token


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tls_key": Path("/k")}, "tls_certificate and tls_key"),
        ({"operator_token": SecretStr("s" * 40), "operator_token_file": Path("/t")}, "operator_token_file"),
        ({"operator_token": SecretStr("s" * 40), "allow_unauthenticated": True}, "allow_unauthenticated"),
    ],
)
def test_settings_that_contradict_each_other(wrong: dict[str, Any], named: str) -> None:
    """They are refused by name, rather than one of them ignored."""
    with pytest.raises(ValidationError, match=named):
        Settings(**wrong)
