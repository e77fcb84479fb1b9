"""Arguments that several subcommands share: add_overrides; and how they print facts: print_facts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Add KEY=VALUE, any number of them. With a default, argparse does not call them required."""
    what = "fields of the recipe, by dotted path"
    command.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=what)


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """A line a fact, or all of them as one JSON object."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}  {_told(value)}")


def _told(value: Any) -> str:
    """A number, a text, or several by name."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_number(each)}" for name, each in value.items())
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
