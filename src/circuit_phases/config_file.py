"""Reads config files as they stand there; what is wrong with one as a file is told with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from circuit_phases.files import UserError


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one group, and tells with its line what YAML cannot make of a value.

    Of equal keys YAML's own reader keeps the last without a word.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    raise UserError(
                        f"{self.name}: the key {key.value} stands in lines {first[key.value]} and {line}. "
                        "Make them one, or rename one."
                    )
                first[key.value] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError) as error:
            # YAML's own types fail in Python's words: no such day, no such number.
            line = node.start_mark.line + 1
            raise UserError(
                f"{self.name}: {node.value} in line {line} is no value ({error}). Write another."
            ) from error


def read_values(path: Path | str) -> dict[str, Any]:
    """The values of a config file, as they stand there.

    Raises:
        UserError: if it cannot be read, is not YAML, or has a key twice.
    """
    try:
        with Path(path).open("rb") as file:
            values = yaml.load(file, _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold keys and values, such as `experiments:`.")
    return values


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with changes over them, groups of values merged."""
    groups = {
        key: values[key]
        for key, change in changes.items()
        if isinstance(change, dict) and isinstance(values.get(key), dict)
    }
    return values | changes | {key: merged(group, changes[key]) for key, group in groups.items()}
