"""`python -m benchmarks.gpu`: every measurement with tiny sizes on a CPU, or on a pretended GPU where a CPU skips it;
the page; and what is refused."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from pretended import pretended_cuda
from torch.profiler import ProfilerActivity

from benchmarks.gpu import attention, budgets, graphs, kernels
from benchmarks.gpu.__main__ import main, measurements
from benchmarks.gpu.rows import Row, measured
from benchmarks.gpu.setting import Setting, Skipped

CPU = Setting(torch.device("cpu"), quick=True)


def test_every_measurement_gives_figures_or_a_reason(tmp_path, capsys):
    page = tmp_path / "quick.md"
    code = main(["--quick", "--device", "cpu", "--out", str(page)])
    rows = {row["title"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(rows) == list(measurements(quick=True))
    sizes = {title for title in measurements(quick=False) if title.startswith("Training at 760M")}
    assert measurements(quick=False).keys() - rows.keys() == sizes and len(sizes) == 2  # a quick run trains one size
    assert {title: row["error"] for title, row in rows.items() if row["error"]} == {}
    assert code == 0
    skipped = {title for title, row in rows.items() if row["skipped"]}
    assert all(rows[title]["figures"] for title in rows.keys() - skipped)
    # What cannot be tested on a CPU, torch-fidelity being an optional package.
    assert skipped - {"FID's features beside torch-fidelity", "Two processes over NCCL"} == {
        "CUDA graphs beside kernels one by one",
        "Our own kernels beside plain functions",
        "Training at 443M, compiled blocks",
    }
    text = page.read_text()
    assert all(f"## {title}\n" in text for title in rows)
    assert "A test of the command with tiny sizes" in text
    assert all(f"- skipped: {title} (" in text for title in skipped)


@pytest.mark.parametrize("measurement", [attention.attention, kernels.kernels, graphs.graphs])
def test_what_a_cpu_skips_runs_on_a_pretended_gpu(measurement):
    with pretended_cuda():
        figures = measurement(Setting(torch.device("cuda"), quick=True))
    assert figures and all(value >= 0 for value in figures.values())


def test_a_graph_that_writes_other_texts_fails(monkeypatch):
    def switched(use, on, action):
        return action if use is graphs.fused.use else lambda: action() and SimpleNamespace(texts=["another"])

    monkeypatch.setattr(graphs, "switched", switched)
    other = "texts, 2 at once: texts written with graphs are others"
    with pretended_cuda(), pytest.raises(AssertionError, match=other):
        graphs.graphs(Setting(torch.device("cuda"), quick=True))


def test_waits_are_watched_for_while_an_action_runs(monkeypatch):
    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(budgets, "CUDA", ProfilerActivity.CPU)  # the profiler would ask the driver

    def action():
        if modes[-1] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    with pretended_cuda():
        counted = budgets.counted(action, Setting(torch.device("cuda"), quick=True))
    assert counted == (1, 0)  # nothing ran on a device that the profiler knows
    assert modes == ["default", "warn", "default"]


def test_an_error_is_a_row_of_the_table():
    def broken(setting):
        raise RuntimeError("out of memory\nand more")

    def without(setting):
        raise Skipped("it needs two GPUs")

    assert measured("a", broken, CPU) == Row("a", error="RuntimeError: out of memory")
    assert measured("b", without, CPU) == Row("b", skipped="it needs two GPUs")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--device", "cpu"], "add --quick"),
        (["--quick", "--device", "cpu", "--out", "docs/gpu.md"], "give another file"),
        pytest.param(
            [],
            "no CUDA device is found",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_what_measures_nothing_is_refused(arguments, reason, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
