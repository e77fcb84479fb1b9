"""Golden data: what the code computes today, kept so that a change which should change nothing can be held to it.

    python -m benchmarks goldens [--check]                 compares with benchmarks/goldens/*.json; the default
    python -m benchmarks goldens --write                   records anew
    ... --only losses --only samples/captions              of one part, or of one entry; may be given many times

On one thread, with fixed seeds. The parts, one file each, every entry computed on its own:

    losses    of 20 steps of each shipped recipe at small size, with gradient norms, held-out losses, what its trained
              tokenizers keep, the weights at the end and what that model then draws, writes and says; and of 5 steps of
              the digits with every kind of backbone and what can be stated of it
    rows      the first fifty rows of each recipe's loader: every tensor of the packed batches, and the position after
    samples   of the shipped checkpoint: token ids of captions, greedy and sampled; pictures, edited ones, documents and
              the command `generate`; in fp32 and in half storage
    commands  every --help; the JSON of plan, info, data and eval on small inputs that are made on the fly
    weights   of the models of `losses` and of the shipped one: names, shapes and initial values of all parameters, how
              many there are, and what `plan` counts

`bits:...` is the sha256 of floats, `sha256:...` that of whole numbers, the first digits of it. On the kind of machine
that recorded, all must be equal to the bit. On another, floats may differ by CLOSE, and hashes of floats that differ
are counted, no more. Left out are versions, times, paths and the process's memory. Needs the extras of `make install`.

Here are the command, the list of parts and the comparison; what the entries compute is in golden_models.py (losses,
rows, weights), golden_samples.py and golden_commands.py. What reaches into the package, and moves when its modules
move, stands in golden_tools.py under "where things are".
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path

import torch

from benchmarks import golden_commands as commands
from benchmarks import golden_models as models
from benchmarks import golden_samples as samples
from benchmarks.golden_tools import CHECKPOINT, scratch

FOLDER = Path(__file__).with_suffix("")
CLOSE = 1e-4  # relative, of floats on another machine than the one that recorded

# ---------------------------------------------------------------- parts

Entries = dict[str, Callable[[], object]]


def parts() -> dict[str, Entries]:
    """Part -> entry -> what computes it."""
    runs, recipes = models.runs(), models.RECIPES
    return {
        "losses": {run: partial(models.losses, run) for run in runs},
        "rows": {recipe: partial(models.rows, recipe) for recipe in recipes},
        "samples": {
            f"{make.__name__}{suffix}": partial(make, half)
            for suffix, half in (("", False), (" half", True))
            for make in (samples.captions, samples.pictures, samples.changes, samples.documents, samples.generate)
        },
        "commands": {
            "help": commands.helps,
            "info": partial(commands.asked, "info", CHECKPOINT, "--json"),
            **{f"plan {recipe}": partial(commands.plans, recipe) for recipe in recipes},
            **{f"data {recipe}": partial(commands.data, recipe) for recipe in ("digits", "chameleon-speech")},
            "eval text": commands.eval_text,
            "eval speech": commands.eval_speech,
            "eval images": commands.eval_images,
            "eval geneval": commands.eval_geneval,
        },
        "weights": {**{run: partial(models.weights, run) for run in runs}, "shipped": models.shipped_weights},
    }


def chosen(only: list[str]) -> dict[str, Entries]:
    """What --only names, of parts or of part/entry; all without."""
    known = parts()
    if not only:
        return known
    found: dict[str, Entries] = {}
    for name in only:
        part, _, entry = name.partition("/")
        if part not in known or (entry and entry not in known[part]):
            entries = ", ".join(known.get(part, ())) or "..."
            sys.exit(f"goldens: no {name!r}; parts are {', '.join(known)}, entries PART/NAME of {entries}")
        found.setdefault(part, {}).update({entry: known[part][entry]} if entry else known[part])
    return found


@contextmanager
def surroundings() -> Iterator[None]:
    """One thread, lines of a fixed width, an empty cache, and nothing on standard error."""
    torch.set_num_threads(1)
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "XDG_CACHE_HOME": str(scratch() / "cache")}
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(scratch())


def computed(compute: Callable[[], object]) -> object:
    """An entry's value as JSON gives it back; an exception is told, with where it came from."""
    with redirect_stderr(io.StringIO()) as noise:
        try:
            value = compute()
        except Exception:
            raise RuntimeError(f"{traceback.format_exc()}\n{noise.getvalue()[-2000:]}") from None
    return json.loads(json.dumps(value))


# ---------------------------------------------------------------- comparing


def machine() -> dict[str, str]:
    """What the bits of floats depend on."""
    cpu = {}
    if Path("/proc/cpuinfo").exists():
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        cpu = {name.strip(): value.strip() for name, _, value in lines}
    return {
        "machine": platform.machine(),
        "cpu": " ".join(cpu.get(name, "?") for name in ("model name", "cpu family", "model")),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


@dataclasses.dataclass
class Comparison:
    """exact: whether the machine is of the kind that recorded. uncompared: hashes of floats that differ elsewhere."""

    exact: bool
    uncompared: int = 0

    def differences(self, was, now, where: str) -> Iterator[str]:
        """A line for each."""
        if isinstance(was, dict) and isinstance(now, dict):
            for key in [*was, *(key for key in now if key not in was)]:
                if key in was and key in now:
                    yield from self.differences(was[key], now[key], f"{where}: {key}")
                else:
                    yield f"{where}: {key}: {'is gone' if key in was else 'is new'}"
            if list(was) != list(now) and was.keys() == now.keys():
                yield f"{where}: stands in another order"
        elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
            for number, (one, other) in enumerate(zip(was, now)):
                yield from self.differences(one, other, f"{where}: {number}")
        elif not self._agree(was, now):
            yield f"{where}: was {was!r:.200}, is {now!r:.200}"

    def _agree(self, was, now) -> bool:
        if type(was) is type(now) and was == now:
            return True
        if self.exact:
            return False
        if isinstance(was, str) and isinstance(now, str) and was.startswith("bits:") and now.startswith("bits:"):
            self.uncompared += 1
            return True
        if isinstance(was, float) and isinstance(now, float):
            return abs(was - now) <= CLOSE * max(abs(was), abs(now))
        return False


def check(part: str, entries: Entries) -> int:
    """Compare a part with its file; how many differences there are."""
    kept = json.loads((FOLDER / f"{part}.json").read_text(encoding="utf-8"))
    here = machine()
    other = [
        f"{name} {kept['machine'][name]}, here {here[name]}" for name in here if kept["machine"][name] != here[name]
    ]
    comparing, count = Comparison(not other), 0
    if other:
        print(f"{part}: recorded elsewhere ({'; '.join(other)}), so floats are compared within {CLOSE:g}")
    for name, compute in entries.items():
        try:
            now = computed(compute)
        except RuntimeError as error:
            found = [f"{part}: {name}: fails\n{error}"]
        else:
            was = kept["entries"].get(name)
            found = list(comparing.differences(was, now, f"{part}: {name}")) if was is not None else [f"{name}: is new"]
        count += len(found)
        print("\n".join(found), end="\n" if found else "", flush=True)
    if comparing.uncompared:
        print(f"{part}: {comparing.uncompared} hashes of floats differ, as they may on another machine")
    return count


def write(part: str, entries: Entries) -> None:
    """Record a part, or some entries of it beside the others."""
    file, kept = FOLDER / f"{part}.json", {}
    if file.exists() and len(entries) < len(parts()[part]):
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["machine"] != machine():
            sys.exit(f"goldens: {file.name} was recorded on another machine; write all of {part} anew")
        kept = before["entries"]
    kept |= {name: computed(compute) for name, compute in entries.items()}
    known = {name: kept[name] for name in parts()[part] if name in kept}
    FOLDER.mkdir(exist_ok=True)
    file.write_text(laid_out({"machine": machine(), "entries": known}) + "\n", encoding="utf-8")


def laid_out(value, indent: int = 0) -> str:
    """JSON whose small parts, and lists of numbers, stand on a line each."""
    flat = json.dumps(value, ensure_ascii=False)
    numbers = isinstance(value, list) and not any(isinstance(item, (dict, list, str)) for item in value)
    if not value or not isinstance(value, (dict, list)) or len(flat) + indent <= 120 or numbers:
        return flat
    if isinstance(value, dict):
        each = [f"{json.dumps(key, ensure_ascii=False)}: {laid_out(item, indent + 1)}" for key, item in value.items()]
    else:
        each = [laid_out(item, indent + 1) for item in value]
    pad, (begin, end) = " " * (indent + 1), "{}" if isinstance(value, dict) else "[]"
    return f"{begin}\n{pad}" + f",\n{pad}".join(each) + f"\n{' ' * indent}{end}"


def main(argv: list[str]) -> int:
    """The command; 1 where something differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks goldens", description="golden data, compared or written"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="record what the code computes now")
    what.add_argument("--check", action="store_true", help="compare with what is recorded; the default")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a part, or PART/ENTRY")
    arguments = parser.parse_args(argv)
    differing = 0
    with surroundings():
        for part, entries in chosen(arguments.only).items():
            started = time.perf_counter()
            if arguments.write:
                write(part, entries)
            else:
                differing += check(part, entries)
            print(f"{part}: {len(entries)} entries in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"written to {FOLDER.name}/" if arguments.write else f"{differing} differences")
    return int(differing > 0)
