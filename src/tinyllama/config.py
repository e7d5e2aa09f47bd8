"""Base of all settings: pydantic models that are immutable and refuse unknown keys.

A field is declared with `setting(default, "one sentence")`. A field that cannot change a result (threads, intervals,
retention) has `changes_result=False`; all others enter the fingerprints of the phases that read them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Config(BaseModel):
    """Base of every section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)

    def result_values(self) -> dict[str, Any]:
        """The values that change the result, by name; they enter fingerprints."""
        return {name: value for name, value in self.model_dump().items() if name not in self.how_only_names()}

    @classmethod
    def how_only_names(cls) -> set[str]:
        """Names of the fields that cannot change a result."""
        return {
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("changes_result") is False
        }


def setting(default: Any, description: str, *, changes_result: bool = True, **limits: Any) -> Any:
    """A recipe field: its default, one sentence about it, whether it changes the result, pydantic limits (ge, le ...)."""
    extra: dict[str, JsonValue] = {"changes_result": changes_result}
    if isinstance(default, list):
        return Field(default_factory=lambda: list(default), description=description, json_schema_extra=extra, **limits)
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Each value that differs, by dotted key: `before -> after`."""
    found: dict[str, str] = {}
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = f"{old!r} -> {new!r}"
    return found


def difference_lines(found: dict[str, str]) -> str:
    """The result of `differences` in words: `key: before -> after; ...`; an empty change shows the key alone."""
    return "; ".join(f"{key}: {change}" if change else key for key, change in found.items())
