"""Nested settings as flat text, for MLflow's parameters and for comparing two descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as text, by dotted names."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return found


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """A description of the settings that differ between two runs; empty if both are equal."""
    was, now = flat(stored), flat(asked)
    return "; ".join(
        f"{name} was {was.get(name)}, now {now.get(name)}" for name in {**was, **now} if was.get(name) != now.get(name)
    )
