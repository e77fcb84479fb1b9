"""The page of a run that learned from rewards: conclude, summary. What was gained, beside what it cost.

The model that training began with is measured by the same prompts and the same noise, so that every figure has one
beside it. Pictures are measured without guidance and with it, since training uses none.
"""

from __future__ import annotations

import html
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mot_gen.files import page as html_page
from mot_gen.files.atomic import write_json, write_text
from mot_gen.files.image_files import to_pil
from mot_gen.recipes.sections import Reward
from mot_gen.reinforce.learner import Learner
from mot_gen.reinforce.model_scores import ModelScores, commonest, measure
from mot_gen.reinforce.rewards import NamedReward, make_reward
from mot_gen.reports import page
from mot_gen.reports.curves import entries
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
    models = {"before": replace(run, averaged=learner.reference), "after": run}
    guidances = {"": 1.0}
    if learner.section.writes == ["image"]:
        guidances[f", guidance {GUIDED:g}"] = GUIDED
    found: dict[str, ModelScores] = {}
    for suffix, guidance in guidances.items():
        for name, model in models.items():
            label = name + suffix
            print(f"measuring {label}", file=sys.stderr, flush=True)
            found[label] = measure(learner, model, scores, guidance)
    report = _report(learner, found)
    write_json(run.folder / REPORT, report)
    _page(learner, found, report)
    return report


def _scores(learner: Learner) -> list[NamedReward]:
    """All that a run rewards or watches, and, where the data have classes, a judge of all of them that did neither."""
    listed = [*learner.rewards.rewards, *learner.rewards.watched]
    if task_of(learner.run.recipe) is not None and "image" in learner.section.writes:
        judge = Reward(kind="judge", seed=0, value="right")  # type: ignore[call-arg]  # options stand beside the kind
        listed.append(make_reward(learner.run.recipe, learner.run.splits, "watched", "class_accuracy", judge))
    return listed


def _report(learner: Learner, found: Mapping[str, ModelScores]) -> dict[str, Any]:
    """What `report.json` holds."""
    run = learner.run
    return {
        "train": {"seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "steps": run.step},
        "reinforce": {name: each.figures() for name, each in found.items()},
        "rewarded": list(learner.section.rewards),
        "signs": signs(found["before"], found["after"], list(learner.section.rewards)),
        "model": str(run.folder / "model"),
    }


def signs(before: ModelScores, after: ModelScores, rewarded: Sequence[str]) -> list[str]:
    """The first signs of a reward that is fooled: what is not rewarded fell, samples are more alike, or farther from
    real ones."""
    said = _scores_that_fell(before, after, rewarded)
    if _shrank(before.spread, after.spread):
        said.append(f"samples of one prompt differ less: {before.spread:.3f} before, {after.spread:.3f} after")
    if _grew(before.frechet, after.frechet):
        said.append(f"the Frechet distance grew from {before.frechet:.3f} to {after.frechet:.3f}")
    writes_both = after.samples.images is not None and any(after.samples.texts)
    if writes_both:
        text, share = commonest(after.samples)
        if share > 2 * commonest(before.samples)[1]:
            said.append(f"{share:.0%} of all texts are {text!r}")
    return said


def _scores_that_fell(before: ModelScores, after: ModelScores, rewarded: Sequence[str]) -> list[str]:
    """Scores that are not rewarded and left their interval downwards, where what is rewarded did not fall."""
    if any(after.scores[name].value < before.scores[name].value for name in after.scores.keys() & set(rewarded)):
        return []
    said = []
    for name, now in after.scores.items():
        was = before.scores[name]
        if name not in rewarded and now.value < was.low:
            said.append(f"{name}, which is not rewarded, fell from {was.value:.3f} to {now.value:.3f}")
    return said


def _shrank(before: float | None, after: float | None) -> bool:
    """Whether too little is left of a spread."""
    if not before or after is None:
        return False
    return after < SPREAD_KEPT * before


def _grew(before: float | None, after: float | None) -> bool:
    """Whether a Frechet distance grew too much."""
    if not before or not after:
        return False
    return after > FRECHET_KEPT * before


def _page(learner: Learner, found: Mapping[str, ModelScores], report: Mapping[str, Any]) -> None:
    run = learner.run
    sections = [
        ("Samples before and after, from the same noise", _samples(found)),
        ("What it was rewarded for, and what it was not", _table(found, report["rewarded"])),
        ("Signs of a fooled reward", _listed(report["signs"])),
        ("While training", page.curves(_curves(run))),
        ("The same prompts, as training went on", progress_section(run)),
    ]
    made = f"{run.step} steps in {run.seconds:.0f} s; everything on this page was made by this run"
    write_text(run.folder / "report.html", page.page(f"mot_gen {run.recipe.name}", made, sections))


def _listed(signs: Sequence[str]) -> str:
    if not signs:
        return "<p>None of those looked for.</p>"
    items = "".join(f"<li class=warning>{html.escape(each)}" for each in signs)
    return f"<ul>{items}</ul>"


def _samples(found: Mapping[str, ModelScores]) -> str:
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


def _table(found: Mapping[str, ModelScores], rewarded: Sequence[str]) -> str:
    """A row a figure, a column a model; the intervals are those of 95%, over samples."""
    models = list(found.values())
    rows = []
    for name in models[0].scores:
        label = f"{name} (rewarded)" if name in rewarded else name
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*each.scores[name]) for each in models]
        rows.append([html.escape(label), *cells])
    rows += _row("how samples of a prompt differ", [each.spread for each in models])
    rows += _row("Frechet distance to real pictures", [each.frechet for each in models])
    count = len(models[0].samples.names)
    return html_page.table(("", *found), rows, list(range(1, len(found) + 1))) + f"<p>N = {count}</p>"


def _row(label: str, figures: Sequence[float | None]) -> list[list[str]]:
    """One row of a figure, none where no model has it."""
    if all(figure is None for figure in figures):
        return []
    return [[label, *(f"{figure or 0:.3f}" for figure in figures)]]


def _curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Reward, every score and the penalties by step."""
    lines: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in entries(run.folder):
        for name, value in entry.get("rewards", {}).items():
            lines[name].append((entry["step"], value))
        for name, value in entry.get("penalty", {}).items():
            lines[f"penalty, {name}"].append((entry["step"], value))
    return dict(lines)


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
