"""The settings of the included tools; those of the service are in `tasks_service.settings`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SYSTEM_DIRECTORIES = tuple(
    map(Path, ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"))
)
"""Directories of the machine itself, in which no tool has anything to read or write."""


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

    @field_validator("tools_root", "reports_dir")
    @classmethod
    def _refuse_the_machine(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """Refuse a directory that holds the machine itself, where callers could read or write it."""
        if value is None:
            return None
        real = value.resolve()
        if real == Path("/") or any(real.is_relative_to(system) for system in SYSTEM_DIRECTORIES):
            raise ValueError(
                f"TASKS_{str(info.field_name).upper()} is {value}, which holds the machine's own files, and "
                "callers of the tools could use them. Set it to a directory that has nothing but the tools' "
                "data"
            )
        return value
