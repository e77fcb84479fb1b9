"""Benchmarks of text-to-image models from prompts to a table: run_geneval, run_dpg, run_compbench.

Each takes the published file of prompts, the pictures that a model drew for them, and what looks at the pictures: any
detector, or any model that answers questions (see mot_gen.eval.images.detectors and .vqa). Each returns `Results`.
`prompts_of` gives the prompts to draw. Pictures are given in their order, those of one prompt one after another.

    GenEval        evaluation_metadata.jsonl                     Ghosh et al. 2023
    DPG-Bench      dpg_bench.csv                                 Hu et al. 2024 (ELLA)
    T2I-CompBench  color.txt, shape.txt, texture.txt, spatial.txt, non_spatial.txt ...    Huang et al. 2023
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.eval.images.clip import ClipEncoder, cosines
from mot_gen.eval.images.compbench import CATEGORIES, attribute_score, spatial_score
from mot_gen.eval.images.detectors import ColorNamer, Detect, detector_facts, load_detector
from mot_gen.eval.images.dpg import DpgPrompt, dpg_score, read_dpg
from mot_gen.eval.images.geneval import GenEval
from mot_gen.eval.images.sources import open_images
from mot_gen.eval.images.vqa import Answer, vqa_facts, vqa_model
from mot_gen.eval.records import Record, records
from mot_gen.eval.result import MetricResult, Results
from mot_gen.eval.text.segments import bootstrap, mean_rows, mean_score

SUITES = ("geneval", "dpg", "compbench")


def prompts_of(suite: str, file: str | Path) -> list[str]:
    """The prompts of a benchmark's file."""
    if suite not in SUITES:
        raise InputError(f"suite {suite!r} is not known" + nearest(suite, SUITES))
    if suite == "geneval":
        return [row["prompt"] for row in geneval_records(file)]
    if suite == "dpg":
        return [prompt.text for prompt in read_dpg(file)]
    return read_prompts(file)


def read_prompts(file: str | Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{file}: prompts cannot be read ({err}); give a text file with one a line") from err
    found = [line.strip() for line in lines if line.strip()]
    require(found, f"{file}: holds no prompts; write one a line")
    return found


def geneval_records(file: str | Path) -> list[Record]:
    """The records of GenEval's evaluation_metadata.jsonl; InputError where one lacks a field."""
    return records(file, {"tag": str, "include": list, "prompt": str})


def run_geneval(
    prompts: str | Path,
    images: Any = None,
    detector: Detect | str | Path | None = None,
    *,
    detections: str | Path | None = None,
    colors: ClipEncoder | str | Path | None = None,
    confidence: float | None = None,
) -> Results:
    """GenEval's table: the score of each task, and their mean as "geneval".

    images: what `open_images` takes, as many for each prompt.
    detector: see the module.
    colors: a CLIP that names the colours of what it finds, where the detector does not.
    detections: a jsonl of {"detections": [...]}, a line an image, in place of images and detector.
    """
    rows = geneval_records(prompts)
    if detections is not None:
        seen = [row["detections"] for row in records(detections, {"detections": list})]
        facts = {"detector": Path(detections).name}
    elif detector is not None and images is not None:
        detect = load_detector(detector)
        namer = ColorNamer(colors) if colors is not None else None
        seen = [_seen(image, detect, namer) for image in _pictures(images)]
        facts = detector_facts(detect)
    else:
        raise InputError("geneval: needs images and a detector, or a file of detections; give one of the two")
    metric = GenEval(detector=facts.pop("detector"), confidence=confidence)
    metric.update([{**row, "detections": found} for row, found in zip(_repeated(rows, seen), seen)])
    results = Results(metric.compute())
    for result in results.values():
        result.provenance |= facts
    return results


def _seen(image: Tensor, detect: Detect, namer: ColorNamer | None) -> list[dict[str, Any]]:
    found = detect(image)
    if namer is None:
        return found
    return namer(image, found)


def _pictures(images: Any) -> Iterator[Tensor]:
    """Pictures one by one; one that cannot be read raises an error, since its prompt would be lost without a word."""
    source = open_images(images)
    for number in range(len(source)):
        yield source.read(number)


def _repeated(rows: Sequence[Any], pictures: Sequence[Any]) -> list[Any]:
    """Each row as often as it has pictures; InputError where they cannot be shared out."""
    each, left = divmod(len(pictures), len(rows))
    if left or not each:
        raise InputError(f"{len(pictures)} pictures for {len(rows)} prompts; draw equally many for each")
    return [row for row in rows for _ in range(each)]


def run_dpg(
    prompts: str | Path, images: Any, model: Answer | str | Path, *, confidence: float | None = None
) -> Results:
    """DPG-Bench's table, in points of 100: "dpg" over prompts, and a share of yes for each kind of question.

    model: see mot_gen.eval.images.vqa; "yes" is what it holds likelier than "no". A question whose parent is answered
    no counts as no in "dpg", as published, and as answered in the shares by kind.
    """
    listed, pictures = read_dpg(prompts), list(_pictures(images))
    answer = vqa_model(model)
    assert answer is not None
    scores: list[float] = []
    kinds: dict[str, list[float]] = {}
    for prompt, image in zip(_repeated(listed, pictures), pictures):
        answers = _answers(prompt, image, answer)
        scores.append(100 * dpg_score(prompt, answers))
        for question in prompt.questions:
            kinds.setdefault(question.kind, []).append(100.0 * answers[question.number])
    facts = {**vqa_facts(answer), "prompts": len(listed), "images_a_prompt": len(pictures) // len(listed)}
    found = Results(dpg=_mean("dpg", scores, "images", facts, confidence))
    for kind, values in sorted(kinds.items()):
        found[f"dpg_{kind}"] = _mean(f"dpg_{kind}", values, "questions", facts, confidence)
    return found


def _answers(prompt: DpgPrompt, image: Tensor, answer: Answer) -> dict[int, bool]:
    """Whether each question is answered with yes."""
    found = {}
    for question in prompt.questions:
        yes, no = answer(image, question.text, ["yes", "no"])
        found[question.number] = yes > no
    return found


def run_compbench(
    category: str,
    prompts: str | Path,
    images: Any,
    judge: Answer | Detect | ClipEncoder | str | Path,
    *,
    confidence: float | None = None,
) -> Results:
    """The score of one category of T2I-CompBench, in [0, 1].

    color, shape, texture: judge is a model that answers questions; the product over the prompt's noun phrases of how
    sure it is that they are there. spatial: judge is a detector; whether what it sees stands as the prompt says.
    non_spatial: judge is a CLIP; the cosine of picture and prompt. "complex" is the mean of the three over the same
    pictures: run color, spatial and non_spatial on them.
    """
    if category not in CATEGORIES:
        raise InputError(f"category {category!r} is not known" + nearest(category, CATEGORIES))
    listed, pictures = read_prompts(prompts), list(_pictures(images))
    measure, facts = _measure_of(CATEGORIES[category], judge)
    scores = [measure(prompt, image) for prompt, image in zip(_repeated(listed, pictures), pictures)]
    name = f"compbench_{category}"
    facts = {**facts, "prompts": len(listed), "images_a_prompt": len(pictures) // len(listed)}
    return Results({name: _mean(name, scores, "images", facts, confidence)})


Measure = Callable[[str, Tensor], float]


def _measure_of(kind: str, judge: Any) -> tuple[Measure, dict[str, Any]]:
    """How a picture is scored against its prompt, and what is known of the judge."""
    if kind == "questions":
        answer = vqa_model(judge)
        assert answer is not None
        return lambda prompt, image: attribute_score(prompt, image, answer), vqa_facts(answer)
    if kind == "detections":
        detect = load_detector(judge)
        return lambda prompt, image: spatial_score(prompt, detect(image)), detector_facts(detect)
    clip = ClipEncoder(judge, prefix="") if isinstance(judge, (str, Path)) else judge

    def cosine(prompt: str, image: Tensor) -> float:
        return cosines(clip.images(image[None]), clip.texts([prompt])[0]).item()

    return cosine, clip.provenance()


def _mean(
    name: str, values: Sequence[float], unit: str, facts: Mapping[str, Any], confidence: float | None
) -> MetricResult:
    """The mean of a score over pictures or questions, with an interval where one is wanted."""
    rows = mean_rows(torch.tensor(values, dtype=torch.float64))
    provenance, interval = dict(facts), None
    if confidence is not None and len(rows) > 1:
        provenance["confidence"] = confidence
        interval = bootstrap(rows, mean_score, confidence)
    return MetricResult(name, mean_score(rows.sum(0)), {unit: len(rows)}, interval, provenance)
