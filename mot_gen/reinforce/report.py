"""The page of a run that learned from rewards: conclude, summary. What was gained, beside what it cost.

The model that training began with is measured by the same prompts and the same noise, so that every figure has one
beside it. Pictures are measured without guidance and with it, since training uses none.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mot_gen.files import page as html_page
from mot_gen.files.image_files import to_pil
from mot_gen.files.whole import write_json, write_text
from mot_gen.recipes.sections import Reward
from mot_gen.reinforce.learner import Learner
from mot_gen.reinforce.measured import Measured, commonest, measure
from mot_gen.reinforce.rewards import NamedReward, made_reward
from mot_gen.reports import page
from mot_gen.reports.judge_run import progress_section, task_of
from mot_gen.training.loop import REPORT
from mot_gen.training.runs import Run

GUIDED = 1.5  # the guidance that pictures are measured with beside none
SHOWN = 40  # samples on the page
SPREAD_KEPT, FRECHET_KEPT = 0.8, 1.3  # shares of the reference's, beyond which a loss is named


def conclude(run: Run, learner: Learner) -> dict:
    """Measure the reference and the model; write `report.json` and `report.html`. Returns what the first holds.

    run: with its averaged model whole. learner: that of its steps, with rewards that are made already.
    """
    scores = _scores(learner)
    before_run = replace(run, averaged=learner.reference)
    guidances: list[float | None] = [None, GUIDED] if learner.section.writes == ["image"] else [None]
    found: dict[str, Measured] = {}
    for guidance in guidances:
        for name, each in (("before", before_run), ("after", run)):
            label = name if guidance is None else f"{name}, guidance {guidance:g}"
            print(f"measuring {label}", file=sys.stderr, flush=True)
            found[label] = measure(learner, each, scores, guidance)
    report = _report(learner, found)
    write_json(run.folder / REPORT, report)
    _page(learner, found, report)
    return report


def _scores(learner: Learner) -> list[NamedReward]:
    """All that a run rewards or watches, and, where the data have classes, a judge of all of them that did neither."""
    listed = [*learner.rewards.rewards, *learner.rewards.watched]
    if task_of(learner.run.recipe) is not None and "image" in learner.section.writes:
        judge = Reward(kind="judge", seed=0, value="right")  # type: ignore[call-arg]  # options stand beside the kind
        listed.append(made_reward(learner.run.recipe, learner.run.splits, "watched", "class_accuracy", judge))
    return listed


def _report(learner: Learner, found: Mapping[str, Measured]) -> dict[str, Any]:
    run = learner.run
    return {
        "train": {"seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "steps": run.step},
        "reinforce": {name: each.figures() for name, each in found.items()},
        "rewarded": list(learner.section.rewards),
        "signs": signs(found["before"], found["after"], list(learner.section.rewards)),
        "model": str(run.folder / "model"),
    }


def signs(before: Measured, after: Measured, rewarded: Sequence[str]) -> list[str]:
    """The first signs of a reward that is fooled: what is not rewarded fell, samples are more alike, or farther from
    real ones."""
    said = []
    rose = all(after.scores[name][0] >= before.scores[name][0] for name in rewarded if name in after.scores)
    for name, (value, *_) in after.scores.items():
        if name not in rewarded and rose and value < before.scores[name][1]:
            said.append(f"{name}, which is not rewarded, fell from {before.scores[name][0]:.3f} to {value:.3f}")
    if before.spread and after.spread is not None and after.spread < SPREAD_KEPT * before.spread:
        said.append(f"samples of one prompt differ less: {before.spread:.3f} before, {after.spread:.3f} after")
    if before.frechet and after.frechet and after.frechet > FRECHET_KEPT * before.frechet:
        said.append(f"the Frechet distance grew from {before.frechet:.3f} to {after.frechet:.3f}")
    if after.samples.images is not None and any(after.samples.texts):
        text, share = commonest(after.samples)
        if share > 2 * commonest(before.samples)[1]:
            said.append(f"{share:.0%} of all texts are {text!r}")
    return said


def _page(learner: Learner, found: Mapping[str, Measured], report: Mapping[str, Any]) -> None:
    run = learner.run
    sections = [("Samples before and after, from the same noise", _samples(found))]
    sections += [("What it was rewarded for, and what it was not", _table(found, report["rewarded"]))]
    listed = "".join(f"<li class=warning>{html.escape(each)}" for each in report["signs"])
    sections += [("Signs of a fooled reward", f"<ul>{listed}</ul>" if listed else "<p>None of those looked for.</p>")]
    sections += [("While training", page.curves(_curves(run)))]
    sections += [("The same prompts, as training went on", progress_section(run))]
    made = f"{run.step} steps in {run.seconds:.0f} s; everything on this page was made by this run"
    write_text(run.folder / "report.html", page.page(f"mot_gen {run.recipe.name}", made, sections))


def _samples(found: Mapping[str, Measured]) -> str:
    parts = []
    for name, each in found.items():
        samples = each.samples
        if samples.images is not None:
            pictures = [to_pil(image) for image in samples.images[:SHOWN]]
            parts.append(f"<p>{html.escape(name)}</p>{page.sheet(pictures, 20, name)}")
        if any(samples.texts):
            texts = "; ".join(samples.texts[: SHOWN // 2])
            parts.append(f"<p>{html.escape(name)}: {html.escape(texts)}</p>")
    return "".join(parts)


def _table(found: Mapping[str, Measured], rewarded: Sequence[str]) -> str:
    """A row a figure, a column a model; the intervals are those of 95%, over samples."""
    names = list(next(iter(found.values())).scores)
    rows = []
    for name in names:
        label = f"{name}{' (rewarded)' if name in rewarded else ''}"
        cells = [each.scores[name] for each in found.values()]
        rows.append([html.escape(label), *(f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in cells)])
    if any(each.spread is not None for each in found.values()):
        rows.append(["how samples of a prompt differ", *(f"{each.spread or 0:.3f}" for each in found.values())])
    if any(each.frechet is not None for each in found.values()):
        rows.append(["Frechet distance to real pictures", *(f"{each.frechet or 0:.3f}" for each in found.values())])
    count = len(next(iter(found.values())).samples.names)
    return html_page.table(("", *found), rows, list(range(1, len(found) + 1))) + f"<p>N = {count}</p>"


def _curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Reward, every score and the penalties by step."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for text in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(text)
        numbers = {**entry.get("rewards", {})}
        numbers |= {f"penalty, {name}": value for name, value in entry.get("penalty", {}).items()}
        for name, value in numbers.items():
            lines.setdefault(name, []).append((entry["step"], value))
    return lines


def summary(folder: Path) -> str | None:
    """The figures of a finished run in a few lines, None where nothing was measured."""
    path = folder / REPORT
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    before, after = found["reinforce"]["before"], found["reinforce"]["after"]
    shown = partial("{:24}  {:.3f} before, {:.3f} after".format)
    lines = [shown(name, before["scores"][name]["value"], each["value"]) for name, each in after["scores"].items()]
    if after["spread"] is not None:
        lines.append(shown("spread", before["spread"], after["spread"]))
    if after["frechet"] is not None:
        lines.append(shown("Frechet distance", before["frechet"], after["frechet"]))
    lines += [f"look out: {each}" for each in found["signs"]]
    return "\n".join([*lines, f"look at {folder / 'report.html'}"])
