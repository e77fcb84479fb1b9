"""Progress: plain lines on a pipe, one bar on a terminal, and the arithmetic of both."""

import io
import subprocess
import sys

import pytest

from mot_gen.files import progress
from mot_gen.files.progress import Progress, clock, counted


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def seconds(monkeypatch):
    """A clock that the test turns."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_each_interval_and_one_at_the_end(seconds):
    pipe = io.StringIO()
    with Progress(40, ["text", "image"], stream=pipe, interval=5) as bar:
        for step in range(1, 41):
            seconds[0] += 0.5
            bar.update(step, image=step / 10, text=2.0)
    lines = pipe.getvalue().splitlines()
    assert lines[0] == "step 1/40  2.0 step/s  -:-- left  text 2.000  image 0.100"
    assert lines[1] == "step 11/40  2.0 step/s  0:15 left  text 2.000  image 1.100"
    assert [line.split()[1] for line in lines] == ["1/40", "11/40", "21/40", "31/40", "40/40"]
    assert lines[-1] == "step 40/40  2.0 step/s  0:00 left  text 2.000  image 4.000"
    assert "\x1b" not in pipe.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_step_that_waits_long_says_for_what(stream, seconds):
    shown = stream()
    with Progress(9, stream=shown) as bar:
        bar.update(1)
        for piece in range(1, 31):  # one a second
            seconds[0] += 1
            bar.wait(f"piece {piece}")
            assert bar._bar is None or bar._bar.tasks[0].description == f"piece {piece // 10 * 10}" or piece < 10
        bar.update(2)
        seconds[0] += 9
        bar.wait("soon done")
    if not shown.isatty():
        assert [line for line in shown.getvalue().splitlines() if "step" not in line] == [
            "piece 10",
            "piece 20",
            "piece 30",
        ]
    assert "soon done" not in shown.getvalue()


def test_a_long_first_step_is_no_measure_of_the_others(seconds):
    """Data are prepared and programs compiled in it, which took a thousand times as long as a step."""
    with Progress(1000, stream=io.StringIO()) as bar:
        seconds[0] += 60
        bar.update(1)
        assert "-:-- left" in bar.text()
        seconds[0] += 0.1
        bar.update(2)
        assert bar.rate == pytest.approx(10) and bar.remaining == pytest.approx(99.8)
    with Progress(1, stream=io.StringIO()) as bar:
        seconds[0] += 60
        bar.update(1)
        assert "0:00 left" in bar.text()


def test_counting_gives_lines_with_what_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with counted(3, "pictures") as advance:
        advance(2)
        advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["pictures: item 2/3", "pictures: item 3/3"]


def test_rich_is_imported_for_a_bar_only():
    code = (
        "import sys; from mot_gen.files.progress import Progress; Progress(3).update(1); print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_steps_before_a_resume_do_not_count_for_the_rate(seconds):
    with Progress(100, done=90, stream=io.StringIO()) as bar:
        seconds[0] += 20
        bar.update(95)
        assert bar.rate == 0.25 and bar.remaining == 20
        assert bar.text() == "4.0 s/step  0:20 left"


def test_a_loss_that_is_not_given_stays(seconds):
    with Progress(10, ["text", "image"], stream=io.StringIO()) as bar:
        bar.update(1, text=1.0, image=2.0)
        bar.update(2, text=0.5)
        assert bar.losses == {"text": 0.5, "image": 2.0}


def test_a_terminal_gets_a_bar_with_losses(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    with Progress(3, ["text"], stream=terminal) as bar:
        bar.update(3, text=1.25)
        bar.note("wrote [3] samples")
    assert "\x1b[" in terminal.getvalue()
    assert "3/3" in terminal.getvalue() and "text 1.250" in terminal.getvalue()
    assert "wrote [3] samples" in terminal.getvalue()


@pytest.mark.parametrize(
    "given, shown", [(0, "0:00"), (0.2, "0:01"), (61, "1:01"), (3600, "1:00:00"), (36_061, "10:01:01"), (1e999, "-:--")]
)
def test_seconds_are_shown_as_a_clock(given, shown):
    assert clock(given) == shown


def test_without_a_total_it_says_how_many_and_how_fast(seconds):
    pipe = io.StringIO()
    with Progress(None, unit="row", stream=pipe, interval=5) as bar:
        for row in range(1, 31):
            seconds[0] += 0.5
            bar.update(row)
    assert pipe.getvalue().splitlines() == [f"row {n}  2.0 row/s" for n in (10, 20, 30)]
    terminal = Terminal()
    with Progress(None, unit="row", stream=terminal) as bar:
        bar.update(3)
    assert "3/?" in terminal.getvalue()
