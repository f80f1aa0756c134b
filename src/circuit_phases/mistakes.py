"""A mistake in settings as one line for people: the key, the value and the way out."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from pydantic import ValidationError


class RuleBroken(ValueError):
    """A value that is not allowed: its message is the key, the value and the way out."""


def one_line(error: ValidationError, unnamed: Container[str] = ()) -> str:
    """The first mistake: key, value and way out, without the names of some groups of keys."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    location = [str(part) for part in first["loc"]]
    if isinstance(cause, RuleBroken):
        # A rule of one field names it itself; a rule across fields stands in what holds them.
        named = location and str(cause).startswith(location[-1])
        where = ".".join(part for part in location[: -1 if named else None] if part not in unnamed)
        return f"{where}: {cause}" if where else str(cause)
    if location[-1:] == ["[key]"]:
        return f"{'.'.join(location[:-2])}: {first['input']!r} is not allowed as a name (YAML reads no text). Quote it."
    *path, key = location or ["config"]
    where = ".".join(part for part in path if part not in unnamed)
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}{key} = {first['input']!r}: there is no such key. Remove it or correct its name."
    if first["type"] == "missing":
        return f"{prefix}{key} is missing. Add it."
    return f"{prefix}{key} = {first['input']!r} is not allowed ({_plain(first['msg'])}){_hint(first['input'])}."


def _plain(message: str) -> str:
    for long, short in {
        "Input should be greater than or equal to ": ">= ",
        "Input should be less than or equal to ": "<= ",
        "Input should be greater than ": "> ",
        "Input should be less than ": "< ",
        "Input should be ": "",
        "a valid tuple": "a list",
        r"a valid dictionary( or instance of \w+)?": "a mapping of its keys",
        r"Tuple should have at least (\d+) items? after validation, not \d+": r"at least \1",
    }.items():
        message = re.sub(long, short, message)
    return message[0].lower() + message[1:]


def _hint(value: Any) -> str:
    """The way out where a number was written so that YAML reads text."""
    try:
        if not isinstance(value, str) or float(value) is None:
            return ""
    except ValueError:
        return ""
    # YAML reads 1e5 without a dot as text.
    return (
        " (write numbers such as 1e5 as 100000)"
        if "e" in value.lower()
        else " (write it without quotes; numbers within braces of --config are text: use --configfile)"
    )
