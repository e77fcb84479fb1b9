"""Losses of runs by step, as an SVG: `python -m benchmarks.loss_curves RUN [RUN ...] --modality image --out FILE`.

RUN: a run's folder, optionally NAME=FOLDER. The losses are those of its metrics.jsonl, of single batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mot_gen.reports.curves import curve, entries
from mot_gen.reports.plot import Line, colour, on_white, plot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--modality", action="append", required=True, help="may be given again")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = []
    for run in args.runs:
        name, _, folder = run.rpartition("=")
        logged = entries(Path(folder))
        for modality in args.modality:
            title = f"{name or Path(folder).name}: {modality}"
            lines.append(Line(curve(logged, modality), title, colour(len(lines))))
    args.out.write_text(on_white(plot(lines, "step", "training loss")), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
