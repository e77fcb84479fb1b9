"""`mot-gen eval suite NAME PROMPTS IMAGES`: GenEval, DPG-Bench and T2I-CompBench from prompts to a table.

    mot-gen eval suite geneval evaluation_metadata.jsonl runs/mine --detector detr/ --colors clip/
    mot-gen eval suite geneval evaluation_metadata.jsonl --detections seen.jsonl
    mot-gen eval suite dpg dpg_bench.csv pictures/ --vqa blip2/
    mot-gen eval suite compbench spatial.txt pictures/ --category spatial --detector package.module:detect

IMAGES is anything that `eval images` reads, or a checkpoint, which then draws them; equally many for each prompt.
"""

from __future__ import annotations

import argparse

from mot_gen.commands.eval_report import report
from mot_gen.errors import InputError, require
from mot_gen.eval.images.compbench import CATEGORIES
from mot_gen.eval.images.suites import prompts_of, run_compbench, run_dpg, run_geneval
from mot_gen.eval.result import Results

JUDGES = {"questions": "vqa", "detections": "detector", "clip": "clip"}  # of T2I-CompBench: kind -> option


# Options that act on some suites alone.
ACTS_ON = {
    "detections": ("geneval",),
    "colors": ("geneval",),
    "detector": ("geneval", "compbench"),
    "vqa": ("dpg", "compbench"),
    "clip": ("compbench",),
    "category": ("compbench",),
}


def check(args: argparse.Namespace) -> None:
    """InputError where the suite's judge or its pictures are not named, and for what would do nothing; nothing is
    read."""
    _refuse_idle(args)
    if args.suite == "dpg":
        _needed(args, "vqa")
    elif args.suite == "compbench":
        _judge(args)
    if not args.detections:
        _named_images(args)


def _refuse_idle(args: argparse.Namespace) -> None:
    for option, suites in ACTS_ON.items():
        if getattr(args, option) is not None and args.suite not in suites:
            raise InputError(f"eval suite {args.suite}: --{option} does nothing here; it is for {' and '.join(suites)}")
    if args.detections and args.images:
        raise InputError(f"{args.images}: --detections stand in the place of pictures; leave one of the two out")


def suite(args: argparse.Namespace) -> int:
    """`eval suite`."""
    check(args)  # also where torch was there before, so that nothing was checked early
    return report(args, f"suite {args.suite}", _results(args), list)


def _results(args: argparse.Namespace) -> Results:
    if args.suite == "geneval":
        images = None if args.detections else _images(args)
        return run_geneval(
            args.prompts,
            images,
            args.detector,
            detections=args.detections,
            colors=args.colors,
            confidence=args.confidence,
        )
    if args.suite == "dpg":
        return run_dpg(args.prompts, _images(args), _needed(args, "vqa"), confidence=args.confidence)
    judge = _judge(args)
    return run_compbench(args.category, args.prompts, _images(args), judge, confidence=args.confidence)


def _judge(args: argparse.Namespace) -> str:
    """What judges a category of T2I-CompBench."""
    category = _needed(args, "category")
    require(category in CATEGORIES, f"--category: {category!r} is not known; one of: {', '.join(CATEGORIES)}")
    return _needed(args, JUDGES[CATEGORIES[category]])


def _needed(args: argparse.Namespace, option: str) -> str:
    value = getattr(args, option)
    if value is None:
        raise InputError(f"eval suite {args.suite}: needs --{option}; give it")
    return value


def _images(args: argparse.Namespace) -> str:
    """IMAGES as a path; those of a checkpoint are drawn first, and kept."""
    from mot_gen.commands.eval import is_checkpoint

    images = _named_images(args)
    if not is_checkpoint(images):
        return images
    from mot_gen.reports.kept_samples import SampleRequest, draw_images

    prompts = []
    for prompt in prompts_of(args.suite, args.prompts):
        prompts += [prompt] * args.images_a_prompt
    request = SampleRequest(images, args.seed, args.batch_size, args.samples)
    return str(draw_images(request, prompts))


def _named_images(args: argparse.Namespace) -> str:
    if args.images is None:
        raise InputError(f"eval suite {args.suite}: IMAGES is missing; give pictures or a checkpoint")
    return args.images
