"""`mot-gen study`: backbones compared at equal FLOPs or parameters; register, study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mot_gen.errors import InputError, nearest
from mot_gen.files.whole import write_json

BACKBONES = "dense,mot,moe4x,hybrid,mamba,mom"


@dataclass(frozen=True)
class Request:
    """What a study is asked to compare, see the command's help."""

    recipe: str
    overrides: Sequence[str] = ()
    backbones: Sequence[str] = tuple(BACKBONES.split(","))
    match: str = "active-flops"
    seeds: int = 3
    steps: int | None = None
    modalities: Sequence[str] = ()
    control: bool = True
    jobs: int = 1
    out: Path = Path("runs") / "study"


def register(commands) -> None:
    """Add the command to mot-gen's."""
    command = commands.add_parser(
        "study",
        help="compare backbones at equal FLOPs or parameters",
        description="Train every backbone on the same data in the same order, at the FLOPs a step (or the total "
        "parameters) of the recipe's own, and match their losses by step. The same command goes on where it stopped.",
    )
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="[NAME:]KEY=VALUE",
        help="fields of the recipe; behind a backbone's NAME, that backbone's options, as mom:bidirectional=causal",
    )
    command.add_argument("--backbones", default=BACKBONES, metavar="NAME,...", help=f"default: {BACKBONES}")
    command.add_argument("--match", choices=("active-flops", "total-params"), default="active-flops")
    command.add_argument("--seeds", type=int, default=3, metavar="N")
    command.add_argument("--steps", type=int, metavar="N", help="as training.steps=N")
    command.add_argument("--modalities", metavar="NAME,...", help="whose losses are matched; default: all")
    command.add_argument(
        "--no-control", action="store_true", help="without the dense model of the sparse one's total parameters"
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: 1")
    command.add_argument("--out", metavar="DIR", help="default: runs/study")
    command.add_argument("--json", metavar="FILE", help="write the result there too")
    command.set_defaults(func=_command)


def _command(arguments) -> int:
    request = Request(
        recipe=arguments.recipe,
        overrides=arguments.overrides,
        backbones=arguments.backbones.split(","),
        match=arguments.match,
        seeds=arguments.seeds,
        steps=arguments.steps,
        modalities=arguments.modalities.split(",") if arguments.modalities else (),
        control=not arguments.no_control,
        jobs=arguments.jobs,
        out=Path(arguments.out or Path("runs") / "study"),
    )
    found, failed = study(request)
    if arguments.json:
        write_json(arguments.json, found)
    _print(found, request.out)
    return 1 if failed else 0


def study(request: Request) -> tuple[dict, int]:
    """Run a study, or go on with one. Returns what study.json holds, and how many runs failed.

    Raises InputError before anything runs for what cannot be compared.
    """
    from mot_gen.recipes.recipe import load_recipe

    options, overrides = _split_overrides(request.overrides)
    if request.steps is not None:
        overrides.append(f"training.steps={request.steps}")
    for name in ("seeds", "jobs"):
        if getattr(request, name) < 1:
            raise InputError(f"--{name}: must be at least 1, got {getattr(request, name)}")
    recipe = load_recipe(request.recipe, overrides)
    modalities = _modalities(request.modalities, recipe)
    if recipe.training.steps <= recipe.training.warmup_steps:
        raise InputError(
            f"training.steps: {recipe.training.steps} do not go past the warm-up of {recipe.training.warmup_steps}, "
            "so nothing could be matched; give more steps, or fewer training.warmup_steps"
        )

    from mot_gen.study.page import write_page
    from mot_gen.study.runs import jobs_of, run_all, with_tokenizers
    from mot_gen.study.summary import summary
    from mot_gen.study.variants import variants
    from mot_gen.study.workload import Workload

    compared = variants(recipe, request.backbones, options, request.match, Workload.of(recipe), request.control)
    jobs = jobs_of(with_tokenizers(compared, recipe, request.out), request.seeds, request.out)
    failed = run_all(jobs, request.jobs)
    reference = "dense" if "dense" in request.backbones else request.backbones[0]
    found = {"recipe": recipe.name} | summary(jobs, reference, modalities, request.match)
    write_json(request.out / "study.json", found)
    write_page(found, jobs, request.out / "study.html")
    return found, len(failed)


def _split_overrides(given: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The backbones' own options, by name, and the recipe's."""
    options: dict[str, list[str]] = {}
    overrides = []
    for text in given:
        name = text.partition("=")[0].partition(":")[0]
        if text.startswith(f"{name}:"):
            options.setdefault(name, []).append(text[len(name) + 1 :])
        else:
            overrides.append(text)
    return options, overrides


def _modalities(names: Sequence[str], recipe) -> list[str]:
    for name in names:
        if name not in recipe.tokenizers:
            raise InputError(f"--modalities: {recipe.name} has no {name!r}{nearest(name, recipe.tokenizers)}")
    return list(names or recipe.tokenizers)


def _print(found: dict, out: Path) -> None:
    from mot_gen.study.summary import table

    rows = table(found)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join([f"{row[0]:{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:]))]))
    print("\ns: share of the reference's FLOPs at which its loss is reached, by steps past the warm-up; ± over seeds")
    for each in found["backbones"]:
        if each["note"]:
            print(f"{each['name']}{'' if each['causal'] else '*'}: {each['note']}")
    if found["control"] is None and found["match"] == "active-flops":
        print("without a dense control of the sparse model's total parameters")
    print(f"{out / 'study.json'} has all figures, {out / 'study.html'} the curves")
