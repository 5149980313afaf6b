"""What the supervisor tells its children is what it was told."""

from pathlib import Path

import pytest

from app.config import LogFormat, Settings
from app.serve import variables_of


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that reads its variables has the settings of its supervisor, each of them changed here."""
    changed = {
        "redis_url": "unix:///run/it's here/valkey.sock",
        "data_dir": Path("/var/lib/moe place"),
        "embedded_server": Path("/opt/valkey/bin/valkey-server"),
        "log_format": LogFormat.JSON,
        "log_level": "debug",
        "host": "::1",
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
    assert all(getattr(Settings(), name) != getattr(defaults, name) for name in Settings.model_fields)
