"""The settings of the included tools; those of the service are in `tasks_service.settings`."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class ToolSettings(BaseSettings):
    """The directories that the included tools may use.

    Attributes:
        tools_root: The directory that the tools may read; nothing outside it is ever opened.
        reports_dir: The directory that `publish_report` writes to, created if it is missing. Unset: reports
            are only in the tool's results.
    """

    model_config = SettingsConfigDict(env_prefix="TASKS_", env_file=".env", extra="ignore", frozen=True)

    tools_root: Path = Path()
    reports_dir: Path | None = None
