"""Nested mappings by dotted paths, as a recipe's YAML is one: field_of, set_field, differing, and `override` for one
KEY=VALUE of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mot_gen.errors import require
from mot_gen.recipes.yaml_files import parse_yaml

SIZE = "backbone.size"
SHAPE = ("dim", "layers", "heads", "kv_heads", "ffn_dim")  # what a named size stands for


def field_of(raw: dict, field: str) -> Any:
    """What a nested mapping has at a dotted path, None where it has nothing."""
    node: Any = raw
    for name in field.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def set_field(raw: dict, field: str, value: Any) -> None:
    """Set the value at a dotted path, whose mappings are there."""
    node, name = _place_of(raw, field)
    node[name] = value


def take_field(raw: dict, field: str) -> None:
    """Remove the value at a dotted path, which is there."""
    node, name = _place_of(raw, field)
    del node[name]


def _place_of(raw: dict, field: str) -> tuple[dict, str]:
    """The mapping that has a field, and the field's name in it."""
    *path, last = field.split(".")
    for name in path:
        raw = raw[name]
    return raw, last


def differing(before: dict, after: dict) -> list[str]:
    """`field: value -> value` for every value in which two nested mappings differ, fields by their dotted paths."""
    flat_before, flat_after = _flat(before), _flat(after)
    lines = []
    for name in {**flat_before, **flat_after}:
        old, new = flat_before.get(name), flat_after.get(name)
        if old != new:
            lines.append(f"{name}: {old!r} -> {new!r}")
    return lines


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of all that is no mapping."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def override(raw: dict, text: str) -> str:
    """Set one KEY=VALUE in `raw` and return the key. A new kind of objective keeps nothing but its weight, and a named
    size of the backbone replaces the shape."""
    key, equals, value = text.partition("=")
    require(equals and key, f"override {text!r} is not KEY=VALUE, as in training.steps=100")
    *path, last = key.split(".")
    node = raw
    for part in path:
        node = node.setdefault(part, {})
        require(isinstance(node, dict), f"override {text!r}: {part!r} is a value and has no fields")
    parsed = parse_yaml(value, f"override {key}")
    other_kind = last == "kind" and node.get("kind") != parsed
    if other_kind and path[:1] == ["objectives"]:
        weight = {name: kept for name, kept in node.items() if name == "weight"}
        node.clear()
        node.update(weight)
    if key == SIZE and parsed is not None:
        for name in SHAPE:
            node.pop(name, None)
    node[last] = parsed
    return key
