"""The mot-gen command: main, which reads the arguments and runs the subcommand that they name.

Exit codes: 0 done; 1 anything unexpected, and training that went wrong beyond hope; 2 bad input, one line on stderr; 3
stopped on request, and the line says how to go on; 130 interrupted a second time. Nothing heavy is imported before a
command is known.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence

from mot_gen import __version__
from mot_gen.checkpoints.folders import permission
from mot_gen.commands import fast_start
from mot_gen.commands.options import warnings_in_one_line
from mot_gen.errors import Diverged, InputError, Interrupted, ProcessLost

# A core that waits busily for another takes it from whoever shares the machine: on a busy one every small operation
# then costs milliseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Modules with a `register(commands)` that adds a subcommand, in the order of the help.
SUBCOMMANDS = (
    "mot_gen.commands.quickstart",
    "mot_gen.commands.train",
    "mot_gen.commands.plan",
    "mot_gen.commands.info",
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


FIRST_STEPS = """\
to begin with:
  mot-gen generate openmoji --to image --prompt "red apple" --out apple.png
  mot-gen generate openmoji --to text --image apple.png
  mot-gen quickstart
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and message.startswith("the following arguments are req"):
                message = f"give one of its commands: {', '.join(action.choices)}"
        command = self.prog.removeprefix("mot-gen").strip()  # the line begins with mot-gen anyway
        where = f"{command}: " if command else ""
        raise InputError(f"{where}{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. argv: by default this process's own arguments; the process is then the
    command itself, and diffusers is imported lightly (fast_start.py)."""
    if argv is None:
        fast_start.install()
        print_any_text()
    try:
        arguments = _parse(argv)
        with permission(getattr(arguments, "trust_remote_code", False)), warnings_in_one_line():
            return arguments.func(arguments)
    except InputError as error:
        _complain(error)
        return 2
    except Interrupted as stopped:
        _complain(stopped)
        return 3
    except (Diverged, ProcessLost) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        print("mot-gen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def print_any_text() -> None:
    """From now on, characters that the encoding of standard output lacks are printed as escapes, such as \\u2588. They
    ended a command with a traceback, after all its work."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors == "strict":
        out.reconfigure(errors="backslashreplace")


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
    given = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(given or ["--help"])
    if not rest:
        return arguments
    takes_more = "overrides" in arguments
    unknown = [word for word in rest if not (takes_more and _is_override(word))]
    if unknown:
        command = _command_of(parser, given)
        command.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0], command)}")
    arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _command_of(parser: argparse.ArgumentParser, given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that was given, or of its own command, as in `data validate`."""
    for word in given:
        choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = choices[0].get(word, parser) if choices else parser
    return parser


def _meant(given: str, parser: argparse.ArgumentParser) -> str:
    """The option that was perhaps meant by an unknown one: one that holds its words, or the closest."""
    import difflib

    name = given.partition("=")[0]
    if not name.startswith("--"):
        return ""
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    longer = [option for option in known if name[2:] in option]
    close = longer or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _is_override(text: str) -> bool:
    """Whether an argument is KEY=VALUE."""
    return "=" in text and not text.startswith("-")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mot-gen",
        description="Train, sample and measure models of text, images and sound in one sequence.",
        epilog=FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mot-gen {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in SUBCOMMANDS:
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


if __name__ == "__main__":
    sys.exit(main())
