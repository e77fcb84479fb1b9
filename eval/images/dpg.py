"""DPG-Bench's questions (Hu et al. 2024): read_dpg, and the pure dpg_score.

Every prompt has questions that may depend on others: "is the dog brown?" is worth asking only where there is a dog. The
published program reads its file with two slips, which are not repeated here: it leaves out the first question, and its
shares by kind count one of a prompt's four pictures.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mot_gen.errors import InputError, require

FIELDS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    number: within its prompt. parents: questions that must be answered yes first. kind: such as "attribute".
    """

    number: int
    parents: tuple[int, ...]
    kind: str
    text: str


@dataclass
class DpgPrompt:
    """A prompt with the questions about its picture. item: its id in the file."""

    item: str
    text: str
    questions: list[Question] = field(default_factory=list)


def read_dpg(path: str | Path) -> list[DpgPrompt]:
    """Prompts with their questions, in the order of the file dpg_bench.csv."""
    prompts: dict[str, DpgPrompt] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise InputError(f"{path}: cannot be read as CSV ({err}); give dpg_bench.csv") from err
    for number, row in enumerate(rows, 2):
        for name in FIELDS:
            require(row.get(name), f"{path}:{number}: field {name!r} is absent or empty; give dpg_bench.csv")
        prompt = prompts.setdefault(row["item_id"], DpgPrompt(row["item_id"], row["text"]))
        prompt.questions.append(_question(row, f"{path}:{number}"))
    require(prompts, f"{path}: holds no questions; give dpg_bench.csv")
    for prompt in prompts.values():
        _check_parents(prompt, path)
    return list(prompts.values())


def _question(row: Mapping[str, str], where: str) -> Question:
    try:
        number = int(row["proposition_id"])
        parents = tuple(int(one) for one in row["dependency"].split(",") if int(one))  # 0 is no parent
    except ValueError as err:
        raise InputError(f"{where}: proposition_id and dependency must be whole numbers ({err})") from err
    # "attribute - color (dog, brown)" is of the kind attribute.
    kind = row["tuple"].split("(")[0].split("-")[0].strip()
    return Question(number, parents, kind, row["question_natural_language"])


def _check_parents(prompt: DpgPrompt, path: str | Path) -> None:
    numbers = {question.number for question in prompt.questions}
    for question in prompt.questions:
        if unknown := set(question.parents) - numbers:
            raise InputError(
                f"{path}: item {prompt.item}: question {question.number} depends on {min(unknown)}, which is absent"
            )


def dpg_score(prompt: DpgPrompt, answers: Mapping[int, bool]) -> float:
    """Share of questions answered with yes; one counts as no where a parent does, in the order of the file."""
    counted: dict[int, bool] = dict(answers)
    for question in prompt.questions:
        if not all(counted[parent] for parent in question.parents):
            counted[question.number] = False
    return sum(counted.values()) / len(prompt.questions)
