"""Benchmarks that print ratios: absolute times are of one machine and one day, ratios within a process are not.

`python -m benchmarks` runs all of them on one thread and prints a JSON object a line. alternate: the clock they share.
"""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(actions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of process CPU time of each action, taken in turn so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.process_time()
            action()
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}
