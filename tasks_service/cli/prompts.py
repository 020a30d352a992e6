"""Forms in a terminal: a prompt for each property, and the conversion of the entered texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

Schema = Mapping[str, Any]
"""The schema of a property, in the restricted form of MCP: text, number, yes or no, choices."""

YES, NO = ("y", "yes", "true"), ("n", "no", "false")


def ask_property(name: str, schema: Schema, *, required: bool, console: Console) -> Any:
    """Ask for one property of a form until the text can be converted; the server checks the rest.

    Args:
        name: The property.
        schema: Its schema.
        required: Whether there must be a value.
        console: The console to ask on.

    Returns:
        The value; None if it is optional and was left out.

    Raises:
        EOFError: Ctrl-D.
    """
    default = schema.get("default")
    preset = "" if default is None else _as_text(default)
    while True:
        text = console.input(_label(name, schema, preset)).strip() or preset
        if not text and not required:
            return None
        try:
            return read_property(text, schema)
        except ValueError as problem:
            console.print(f"[red]{escape(str(problem))}")


def ask_agreement(console: Console) -> bool:
    """Ask for a yes or a no.

    Raises:
        EOFError: Ctrl-D.
    """
    return bool(ask_property("Agree?", {"type": "boolean"}, required=True, console=console))


def read_property(text: str, schema: Schema) -> Any:
    """Convert an entered text to the schema's type.

    Raises:
        ValueError: It cannot be converted; the message is for the person who entered it.
    """
    kind, choices = schema.get("type"), choices_of(schema)
    if kind == "boolean":
        if text.lower() not in (*YES, *NO):
            raise ValueError("Please answer y or n.")
        return text.lower() in YES
    if kind == "array":
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return [_chosen(part, choices) for part in parts]
    if kind in ("integer", "number"):
        try:
            return int(text) if kind == "integer" else float(text)
        except ValueError:
            raise ValueError(
                f"Please enter {'a whole number' if kind == 'integer' else 'a number'}."
            ) from None
    if not text:
        raise ValueError("Please enter a value; Ctrl-D declines.")
    return _chosen(text, choices)


def choices_of(schema: Schema) -> dict[str, str]:
    """The values that may be chosen, with their titles; empty if any text may be entered."""
    source = schema.get("items", {}) if schema.get("type") == "array" else schema
    for keyword in ("oneOf", "anyOf"):
        if keyword in source:
            return {str(arm["const"]): str(arm.get("title", arm["const"])) for arm in source[keyword]}
    values = [str(value) for value in source.get("enum", ())]
    return dict(zip(values, source.get("enumNames", values), strict=False))


def kind_of(schema: Schema) -> str:
    """A short description of what may be entered."""
    several = schema.get("type") == "array"
    if choices := choices_of(schema):
        shown = ", ".join(
            value if value == title else f"{value} ({title})" for value, title in choices.items()
        )
        return f"{'any' if several else 'one'} of: {shown}"
    names = {"boolean": "y/n", "integer": "whole number", "number": "number"}
    return names.get(str(schema.get("type")), str(schema.get("format", "text")))


def _label(name: str, schema: Schema, preset: str) -> str:
    label = escape(str(schema.get("title") or name))
    if description := schema.get("description"):
        label += f" - {escape(str(description))}"
    label += f" [dim]{escape(f'[{kind_of(schema)}]')}[/dim]"
    return f"{label} [cyan]({escape(preset)})[/cyan]: " if preset else f"{label}: "


def _chosen(text: str, choices: Mapping[str, str]) -> str:
    if choices and text not in choices:
        raise ValueError(f"{text} is not one of: {', '.join(choices)}.")
    return text


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
