"""A mistake in settings as one line for people: the key, the value and the way out."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from circuit_phases.settings import GROUPS, RuleBroken


def one_line(error: ValidationError | RuleBroken) -> str:
    """The first mistake: key, value and way out."""
    if isinstance(error, RuleBroken):
        return str(error)
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    location = [str(part) for part in first["loc"]]
    if isinstance(cause, RuleBroken):
        # A rule of one field names it itself; a rule across fields stands in what holds them.
        named = location and str(cause).startswith(location[-1])
        where = ".".join(part for part in location[: -1 if named else None] if part not in GROUPS)
        return f"{where}: {cause}" if where else str(cause)
    *path, key = location or ["config"]
    where = ".".join(part for part in path if part not in GROUPS)
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}{key} = {first['input']!r}: there is no such key. Remove it or correct its name."
    if first["type"] == "missing":
        return f"{prefix}{key} is missing. Add it."
    hint = " (write numbers such as 1e5 as 100000)" if _is_number_in_words(first["input"]) else ""
    return f"{prefix}{key} = {first['input']!r} is not allowed ({_plain(first['msg'])}){hint}."


def _plain(message: str) -> str:
    for long, short in {
        "Input should be greater than or equal to ": ">= ",
        "Input should be less than or equal to ": "<= ",
        "Input should be greater than ": "> ",
        "Input should be less than ": "< ",
        "Input should be ": "",
        "a valid tuple": "a list",
        "a valid dictionary or instance of FigureEntry": "a mapping of its keys",
    }.items():
        message = message.replace(long, short)
    return message[0].lower() + message[1:]


def _is_number_in_words(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False
