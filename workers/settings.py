"""Settings of the shipped tools; those of the service are in `tasks_service.settings`."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class ToolSettings(BaseSettings):
    """What the shipped tools may touch.

    Attributes:
        tools_root: Directory that the tools may read; nothing outside it is ever opened.
        reports_dir: Directory that `publish_report` writes into; made if it is missing. Unset: its reports
            are in its results alone.
    """

    model_config = SettingsConfigDict(env_prefix="TASKS_", env_file=".env", extra="ignore", frozen=True)

    tools_root: Path = Path()
    reports_dir: Path | None = None
