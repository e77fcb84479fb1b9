"""The mot-gen command: quickstart, train, plan, info, and what study, generate, data, demo, tokenizers, eval add.

Exit codes: 0 done; 1 anything unexpected, and training that went wrong beyond hope; 2 bad input, one line on stderr; 3
stopped on request, and the line says how to go on; 130 interrupted a second time. Nothing heavy is imported before a
command is known.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mot_gen import __version__
from mot_gen.checkpoints.folders import permission
from mot_gen.commands import fast_start
from mot_gen.commands.early import check_run
from mot_gen.errors import Diverged, InputError, Interrupted, Lost
from mot_gen.files.stopping import stopping_at_once

# A core that waits busily for another takes it from whoever shares the machine: on a busy one every small operation
# then costs milliseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Modules with a `register(commands)` that adds theirs.
ADDED = (
    "mot_gen.commands.study",
    "mot_gen.commands.data",
    "mot_gen.commands.generate",
    "mot_gen.commands.demo",
    "mot_gen.commands.tokenizer",
    "mot_gen.commands.eval",
    "mot_gen.commands.convert",
    "mot_gen.commands.export",
)

# Commands that load a checkpoint's folder.
LOADING = ("train", "info", "generate", "demo", "eval", "convert", "export", "tokenizer", "study")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        command = self.prog.removeprefix("mot-gen").strip()  # the line begins with mot-gen anyway
        raise InputError(f"{command and command + ': '}{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. argv: by default this process's own arguments; the process is then the
    command itself, and diffusers is imported lightly (fast_start.py)."""
    if argv is None:
        fast_start.install()
    try:
        arguments = _parse(argv)
        with permission(getattr(arguments, "trust_remote_code", False)):
            return arguments.func(arguments)
    except InputError as error:
        _complain(error)
        return 2
    except Interrupted as stopped:
        _complain(stopped)
        return 3
    except (Diverged, Lost) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        print("mot-gen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(error: Exception) -> None:
    """One line on stderr. Of the processes of a run the first speaks at once; the others wait for it to end, and
    torchrun ends them then, so that what concerns all is said once and what concerns one is said too."""
    if int(os.environ.get("RANK", 0)):
        if isinstance(error, Interrupted):  # all have agreed to stop
            return
        time.sleep(2)
    print("mot-gen: " + " ".join(str(error).split()), file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; KEY=VALUE may also stand behind the options, where argparse looks for none."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(text.startswith("-") or "=" not in text for text in rest) or not (rest == [] or "overrides" in arguments):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mot-gen", description="Train, sample and measure models of text, images and sound in one sequence."
    )
    parser.add_argument("--version", action="version", version=f"mot-gen {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _quickstart_arguments(commands)
    _train_arguments(commands)
    _plan_arguments(commands)
    _info_arguments(commands)
    for module in ADDED:
        importlib.import_module(module).register(commands)
    for name in LOADING:
        _add_permission(commands.choices[name])
    return parser


def _add_permission(parser: argparse.ArgumentParser) -> None:
    """Give a command, or each of its own commands, the option `--trust-remote-code`."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in nested:
        for own in action.choices.values():
            _add_permission(own)
    if not nested:
        parser.add_argument(
            "--trust-remote-code", action="store_true", help="run modules outside of mot_gen that a folder names"
        )


# ---------------------------------------------------------------- quickstart, train


def _overrides(command: argparse.ArgumentParser) -> None:
    # With a default, argparse does not call them required.
    help_text = "fields of the recipe, by dotted path"
    command.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=help_text)


def _quickstart_arguments(commands) -> None:
    command = commands.add_parser("quickstart", help="train on handwritten digits, generate both ways, measure, report")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="fields of the recipe, by dotted path"
    )
    command.add_argument("--out", metavar="DIR", default="runs/digits", help="default: runs/digits")
    command.add_argument("--json", action="store_true", help="print report.json")
    command.set_defaults(func=_quickstart)


def _quickstart(arguments) -> int:
    with stopping_at_once("stopped before anything was done; the same command begins again"):
        return _quickstarted(arguments)


def _quickstarted(arguments) -> int:
    from mot_gen.commands.quickstart import quickstart

    found = quickstart(arguments.out, arguments.overrides)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0

    from mot_gen.reports.judge_run import summary

    print(summary(found))
    print(f"then try  mot-gen generate {arguments.out} --to image --prompt 'a handwritten seven' --out seven.png")
    return 0


def _train_arguments(commands) -> None:
    command = commands.add_parser("train", help="train a recipe, shipped or of your own")
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="fields of the recipe, by dotted path"
    )
    command.add_argument("--out", metavar="DIR", help="default: runs/ and the recipe's name")
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint, or begin where there is none"
    )
    command.set_defaults(func=_train)


def _train(arguments) -> int:
    with stopping_at_once("stopped before anything was done; the same command begins again"):
        return _trained(arguments)


def _trained(arguments) -> int:
    from mot_gen.recipes.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    folder = Path(arguments.out or Path("runs") / recipe.name)
    check_run(recipe, folder)

    from mot_gen.reports.conclude import all_hooks, summary_of
    from mot_gen.training.loop import train

    hooks = all_hooks(recipe)
    if recipe.reinforce:
        from mot_gen.reinforce.hooks import reinforced
        from mot_gen.reinforce.report import summary as summary_of

        hooks = reinforced(recipe, hooks)
    run = train(recipe, folder, arguments.resume, hooks)
    if not run.world.first:
        return 0
    summary = summary_of(folder)
    if summary:
        print(summary)
    print(f"{folder / 'model'} is trained; mot-gen generate {folder} --to image --prompt '...' --out picture.png")
    return 0


# ---------------------------------------------------------------- plan, info


def _plan_arguments(commands) -> None:
    command = commands.add_parser("plan", help="parameters, FLOPs, memory and tokens of a recipe, before anything runs")
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    _overrides(command)
    command.add_argument("--processes", type=int, default=1, metavar="N", help="how many train together; default: 1")
    command.add_argument("--machine", type=int, default=8, metavar="N", help="how many share a machine; default: 8")
    command.add_argument("--vocabulary", type=int, metavar="N", help="of text; default: the tokenizer's")
    command.add_argument("--flops", type=float, metavar="F", help="a budget for the whole training, as 1e18")
    command.add_argument(
        "--solve", choices=("steps", "width"), default="steps", help="what is changed to meet it; default: steps"
    )
    command.add_argument("--time", action="store_true", help="make some steps, to measure seconds and memory")
    command.add_argument("--json", action="store_true", help="print the facts as JSON")
    command.set_defaults(func=_plan)


def _plan(arguments) -> int:
    sizes = {name: getattr(arguments, name) for name in ("processes", "machine", "vocabulary")}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise InputError(f"--{name}: must be at least 1, got {size}")
    if arguments.flops is not None and not arguments.flops > 0:
        raise InputError(f"--flops: must be above 0, got {arguments.flops}")

    from mot_gen.recipes.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    check_run(recipe)
    if recipe.auto:
        recipe = _settled(recipe)

    from mot_gen.study.budget import config_of, solve
    from mot_gen.study.memory import process_memory
    from mot_gen.study.plan import plan
    from mot_gen.study.workload import Workload

    solved = {}
    if arguments.flops is not None:
        recipe = solve(recipe, arguments.flops, arguments.solve, Workload.of(recipe))
        names = ("dim", "ffn_dim", "layers") if arguments.solve == "width" else ()
        solved = {f"backbone.{n}": value for n in names if (value := getattr(config_of(recipe), n, None)) is not None}
    facts = solved | plan(recipe, **sizes)
    if arguments.processes == 1:
        beside = process_memory(facts["total_parameters"], recipe.training)
        facts |= {"process_bytes": beside, "resident_bytes": beside + facts["peak_bytes"]}
    if arguments.time:
        from mot_gen.training.trial import trial

        facts |= trial(recipe)
    _print_facts(facts, arguments.json)
    return 0


def _settled(recipe):
    """The recipe with what it leaves to the data and the machine, which is said."""
    from mot_gen.training.build import load_splits
    from mot_gen.training.defaults import settled

    return settled(recipe, load_splits(recipe), Path("runs"), lambda line: print(line, file=sys.stderr))


def _info_arguments(commands) -> None:
    command = commands.add_parser("info", help="what a checkpoint is and can do")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a run's folder, its model/, or a shipped name")
    command.add_argument("--json", action="store_true", help="print the facts as JSON")
    command.set_defaults(func=_info)


def _info(arguments) -> int:
    from mot_gen.checkpoints import find

    find(arguments.checkpoint)  # what is not there is refused before torch is imported

    from mot_gen.pipelines.about import describe

    _print_facts(describe(arguments.checkpoint), arguments.json)
    return 0


def _print_facts(facts: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        parts = value if isinstance(value, dict) else {"": value}
        print(f"{name.replace('_', ' '):{width}}  {'; '.join(f'{k} {_number(v)}'.strip() for k, v in parts.items())}")


def _number(value) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
