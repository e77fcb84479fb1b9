"""The page of a run: the card, the versions, the day, every row, and what was skipped. written: its text."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.rows import Figures, Row
from benchmarks.gpu.setting import Setting

PACKAGES = ("torch", "triton", "diffusers", "transformers", "torch-fidelity")


def written(rows: Sequence[Row], setting: Setting) -> str:
    """Markdown."""
    parts = ["# On a GPU", opening(setting), about(setting), *map(section, rows), missing(rows)]
    return "\n\n".join(parts) + "\n"


def opening(setting: Setting) -> str:
    if setting.quick:
        return "**A test of the command with tiny sizes. No figure here says anything about speed.**"
    return (
        "`make gpu` measured all figures below in one run and wrote this page. Ratios come from actions that take\n"
        "turns in one process; times are medians by the wall clock."
    )


def about(setting: Setting) -> str:
    facts = {
        "card": torch.cuda.get_device_name(setting.device) if setting.on_gpu else f"none: {platform.machine()} CPU",
        "date": datetime.date.today().isoformat(),
        "Python": platform.python_version(),
        "CUDA": torch.version.cuda if setting.on_gpu else "not used",
        **{name: installed(name) for name in PACKAGES},
    }
    return table("| measured with | |", facts)


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def section(row: Row) -> str:
    return f"## {row.title}\n\n{found(row)}"


def found(row: Row) -> str:
    if row.skipped:
        return f"Skipped: {row.skipped}."
    if row.error:
        return f"**Failed:** `{row.error.replace('`', chr(39))}`"
    return table("| | |", row.figures)


def shown(value: float | str) -> str:
    """A number with three digits, or all of those before the point."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: str, lines: Figures) -> str:
    return "\n".join([head, "|---|---|", *(f"| {name} | {shown(value)} |" for name, value in lines.items())])


def missing(rows: Sequence[Row]) -> str:
    """What was skipped and what failed, once more at the end."""
    lines = [line for row in rows for line in lacking(row)]
    return "## What is missing\n\n" + ("\n".join(lines) or "Nothing: every measurement gave figures.")


def lacking(row: Row) -> list[str]:
    if row.skipped:
        return [f"- skipped: {row.title} ({row.skipped})"]
    return [f"- failed: {row.title}"] if row.error else []
