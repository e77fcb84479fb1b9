"""`mot-gen study`: backbones compared at equal FLOPs or parameters, or objectives at equal FLOPs; register, study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mot_gen.backbone import PRESETS
from mot_gen.commands.early import check_run, refuse_unwritable
from mot_gen.commands.options import writable_file
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.atomic import write_json
from mot_gen.study.relatives import RELATIVES

if TYPE_CHECKING:
    from mot_gen.recipes.recipe import Recipe

BACKBONES = "dense,mot,moe4x,hybrid,mamba,mom"
EVALUATIONS = (1, 2, 4, 8, 16, 32)  # numbers of steps in which each objective's pictures are drawn
Options = dict[str, list[str]]  # KEY=VALUE of single backbones or objectives, by their names
S = "s: share of the reference's FLOPs at which its loss is reached, by steps past the warm-up; ± over seeds"


@dataclass(frozen=True)
class StudyRequest:
    """What a study is asked to compare: objectives where there are any, else backbones; see the command's help."""

    recipe: str
    overrides: Sequence[str] = ()
    backbones: Sequence[str] = tuple(BACKBONES.split(","))
    objectives: Sequence[str] = ()
    match: str = "active-flops"
    seeds: int = 3
    steps: int | None = None
    modalities: Sequence[str] = ()
    control: bool = True
    jobs: int = 1
    out: Path = Path("runs") / "study"

    def __post_init__(self):
        for name in ("seeds", "jobs"):
            value = getattr(self, name)
            require(value >= 1, f"--{name}: must be at least 1, got {value}")


def register(commands) -> None:
    """Add the command to mot-gen's."""
    command = commands.add_parser(
        "study",
        help="compare backbones, or objectives, at equal cost",
        description="Train every backbone on the same data in the same order, at the FLOPs a step (or the total "
        "parameters) of the recipe's own, and match their losses by step. With --objectives, train every objective of "
        "the pictures at equal FLOPs, and compare what they draw. The same command goes on where it stopped.",
    )
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="[NAME:]KEY=VALUE",
        help="fields of the recipe; behind the NAME of a backbone or objective, its own options, as "
        "mom:bidirectional=causal or masked:cap=0.2",
    )
    command.add_argument("--backbones", metavar="NAME,...", help=f"default: {BACKBONES}")
    command.add_argument(
        "--objectives", metavar="NAME,...", help="instead: of pictures, as flow,diffusion,masked,shortcut"
    )
    command.add_argument(
        "--match", choices=("active-flops", "total-params"), default="active-flops", help="of backbones"
    )
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each; default: 3")
    command.add_argument("--steps", type=int, metavar="N", help="as training.steps=N")
    command.add_argument("--modalities", metavar="NAME,...", help="whose losses are matched; default: all")
    command.add_argument(
        "--no-control", action="store_true", help="without the dense model of the sparse one's total parameters"
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: 1")
    command.add_argument("--out", metavar="DIR", default="runs/study", help="default: runs/study")
    command.add_argument("--json", type=writable_file, metavar="FILE", help="write the result there too")
    command.set_defaults(func=_command)


def _command(arguments) -> int:
    of_backbones = {"--backbones": arguments.backbones, "--modalities": arguments.modalities}
    for option, given in of_backbones.items():
        alone = given is None or arguments.objectives is None
        require(alone, f"{option}: is for a study of backbones, which --objectives is not; leave one of the two out")
    request = StudyRequest(
        recipe=arguments.recipe,
        overrides=arguments.overrides,
        backbones=_listed("--backbones", arguments.backbones) or tuple(BACKBONES.split(",")),
        objectives=_listed("--objectives", arguments.objectives),
        match=arguments.match,
        seeds=arguments.seeds,
        steps=arguments.steps,
        modalities=_listed("--modalities", arguments.modalities),
        control=not arguments.no_control,
        jobs=arguments.jobs,
        out=Path(arguments.out),
    )
    found, failed = study(request)
    if arguments.json:
        write_json(arguments.json, found)
    _print(found, request.out)
    return 1 if failed else 0


def _listed(option: str, names: str | None) -> Sequence[str]:
    """The names that an option lists; none where it was not given."""
    if names is None:
        return ()
    listed = [name.strip() for name in names.split(",")]
    require(all(listed), f"{option}: give names with commas between them, got {names!r}")
    return listed


def study(request: StudyRequest) -> tuple[dict, int]:
    """Run a study, or go on with one. Returns what study.json holds, and how many runs failed.

    Raises InputError before anything runs for what cannot be compared.
    """
    from mot_gen.recipes.recipe import load_recipe

    options, overrides = _split_overrides(request.overrides)
    if request.steps is not None:
        overrides.append(f"training.steps={request.steps}")
    refuse_unwritable(request.out)
    recipe = load_recipe(request.recipe, overrides, lambda given, check: _check(request, given, check, options))
    found, failed = _comparison(request).run(request, recipe, options)
    write_json(request.out / "study.json", found)
    return found, failed


def _check(request: StudyRequest, recipe: Recipe, check: Callable[[], None], options: Options) -> None:
    """InputError for what cannot be compared, as far as that can be said without torch."""
    training = recipe.training
    if training.steps <= training.warmup_steps:
        raise InputError(
            f"training.steps: {training.steps} do not go past the warm-up of {training.warmup_steps}, "
            "so nothing could be matched; give more steps, or fewer training.warmup_steps"
        )
    _modalities(request.modalities, recipe)
    comparison = _comparison(request)
    comparison.check_names(request, options)

    def check_all() -> None:
        check()
        comparison.check_variants(request, recipe, options)

    check_run(recipe, check_all)


def _check_backbone_variants(request: StudyRequest, recipe: Recipe, options: Options) -> None:
    from mot_gen.study.variants import check_comparable, recipe_of_backbone

    check_comparable(recipe, request.backbones, options)
    for name in request.backbones:
        recipe_of_backbone(recipe, name, options.get(name, ()))


def _check_objective_variants(request: StudyRequest, recipe: Recipe, options: Options) -> None:
    from mot_gen.study.objective_variants import recipe_of_objective
    from mot_gen.study.variants import check_names

    check_names("objectives", request.objectives, options)
    for name in request.objectives:
        recipe_of_objective(recipe, name, options.get(name, ()), "image")


def _check_backbones(request: StudyRequest, options: Options) -> None:
    """InputError for a name that is no backbone, unless its options say of which kind it is."""
    known = [*PRESETS, *RELATIVES]
    for name in request.backbones:
        stated = any(text.startswith("kind=") for text in options.get(name, ()))
        own = "." in name  # the dotted path of a module, which is looked for when it is imported
        require(name in known or stated or own, f"backbones: {name!r} is not a backbone{nearest(name, known)}")


def _check_objectives(request: StudyRequest, options: Options) -> None:
    """InputError for a name that is no objective, unless its options say of which kind it is."""
    from mot_gen.recipes.implementations import module_of

    for name in request.objectives:
        if not any(text.startswith("kind=") for text in options.get(name, ())):
            module_of("--objectives", "mot_gen.objectives", name)


def _compare_backbones(request: StudyRequest, recipe: Recipe, options: Options) -> tuple[dict, int]:
    from mot_gen.study.page import write_page
    from mot_gen.study.runs import jobs_of, run_all, with_tokenizers
    from mot_gen.study.summary import summary
    from mot_gen.study.variants import variants
    from mot_gen.study.workload import Workload

    compared = variants(recipe, request.backbones, options, request.match, Workload.of(recipe), request.control)
    jobs = jobs_of(with_tokenizers(compared, request.out), request.seeds, request.out)
    failed = run_all(jobs, request.jobs)
    reference = "dense" if "dense" in request.backbones else request.backbones[0]
    found = {"recipe": recipe.name} | summary(jobs, reference, _modalities(request.modalities, recipe), request.match)
    write_page(found, jobs, request.out / "study.html")
    return found, len(failed)


def _compare_objectives(request: StudyRequest, recipe: Recipe, options: Options) -> tuple[dict, int]:
    from mot_gen.study.objective_page import write_objective_page
    from mot_gen.study.objective_summary import objective_summary
    from mot_gen.study.objective_variants import objective_variants
    from mot_gen.study.runs import jobs_of, run_all, with_tokenizers
    from mot_gen.study.workload import Workload

    compared = objective_variants(recipe, request.objectives, options, "image", Workload.of(recipe))
    jobs = jobs_of(with_tokenizers(compared, request.out), request.seeds, request.out)
    failed = run_all(jobs, request.jobs, EVALUATIONS)
    found = {"recipe": recipe.name} | objective_summary(jobs, "image")
    write_objective_page(found, jobs, request.out / "study.html")
    return found, len(failed)


@dataclass(frozen=True)
class _Comparison:
    """What a study compares.

    check_names: refuses names that are not known. check_variants: refuses recipes that cannot be made, which needs
    torch. run: trains all; what study.json holds, and how many runs failed.
    """

    check_names: Callable[[StudyRequest, Options], None]
    check_variants: Callable[[StudyRequest, Recipe, Options], None]
    run: Callable[[StudyRequest, Recipe, Options], tuple[dict, int]]


_BACKBONES = _Comparison(_check_backbones, _check_backbone_variants, _compare_backbones)
_OBJECTIVES = _Comparison(_check_objectives, _check_objective_variants, _compare_objectives)


def _comparison(request: StudyRequest) -> _Comparison:
    return _OBJECTIVES if request.objectives else _BACKBONES


def _split_overrides(given: Sequence[str]) -> tuple[Options, list[str]]:
    """The options of single backbones or objectives, by name, and the recipe's."""
    options: Options = {}
    overrides = []
    for text in given:
        name, colon, _ = text.partition("=")[0].partition(":")
        if colon:
            options.setdefault(name, []).append(text[len(name) + 1 :])
        else:
            overrides.append(text)
    return options, overrides


def _modalities(names: Sequence[str], recipe: Recipe) -> list[str]:
    """The modalities whose losses are matched; InputError for one that the recipe has not."""
    for name in names:
        if name not in recipe.tokenizers:
            raise InputError(f"--modalities: {recipe.name} has no {name!r}{nearest(name, recipe.tokenizers)}")
    return list(names or recipe.tokenizers)


def _print(found: dict, out: Path) -> None:
    """The table of what a study found, and where the rest is."""
    from mot_gen.study.figures import text_table

    if "objectives" in found:
        from mot_gen.study.objective_page import NOTE
        from mot_gen.study.objective_summary import objective_table

        print(f"{text_table(objective_table(found))}\n\n{NOTE}")
    else:
        from mot_gen.study.page import notes
        from mot_gen.study.summary import table

        print("\n".join([text_table(table(found)), "", S, *notes(found)]))
    print(f"{out / 'study.json'} has all figures, {out / 'study.html'} the curves")
