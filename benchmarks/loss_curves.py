"""Losses of runs by step, as an SVG: `python -m benchmarks.loss_curves RUN [RUN ...] --modality image --out FILE`.

RUN: a run's folder, optionally NAME=FOLDER. The losses are those of its metrics.jsonl, of single batches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mot_gen.study.plot import COLOURS, Line, on_white, plot


def points(run: Path, modality: str) -> list[tuple[float, float]]:
    """(step, loss) of every line that has the modality."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["step"], line["losses"][modality]) for line in lines if modality in line["losses"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--modality", action="append", required=True, help="may be given again")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    named = [run.rpartition("=") for run in args.runs]
    asked = [(name or Path(folder).name, Path(folder), m) for name, _, folder in named for m in args.modality]
    lines = [
        Line(points(folder, m), f"{name}: {m}", COLOURS[number % len(COLOURS)])
        for number, (name, folder, m) in enumerate(asked)
    ]
    args.out.write_text(on_white(plot(lines, "step", "training loss")), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
