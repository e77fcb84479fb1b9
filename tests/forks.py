"""Processes that have imported everything when they begin: FORKS, a context of multiprocessing, and `serving`.

Importing torch and diffusers costs a process more than most tests do. Python's fork server spares that: its processes
are forks of one server. Here the server itself is a fork of the process of the tests, made before the first test, when
all test files are imported and no library runs threads yet. What its processes do is pickled, as for spawned ones.
"""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, util

import pytest

FORKS = multiprocessing.get_context("forkserver")


@contextmanager
def serving() -> Iterator[None]:
    """Within, the fork server runs. What is imported by now is frozen: it is no garbage, and collections that look
    through all of it take time, and copy the memory that forks share."""
    gc.freeze()
    resource_tracker.ensure_running()  # the other process that multiprocessing starts; it is an interpreter of its own
    servers = []

    def start(path: str, words: list[str], files: list[int]) -> int:
        servers.append(_fork(words[-1], files))
        return servers[-1]

    with pytest.MonkeyPatch.context() as patch:
        forkserver.set_forkserver_preload([])  # it has imported everything
        patch.setattr(util, "spawnv_passfds", start)  # which would start an interpreter that runs the last word
        forkserver.ensure_running()
    yield
    for server in servers:
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)


def _fork(code: str, files: list[int]) -> int:
    """The id of a fork that runs the code. Of our open files it has these and the standard ones; for the others it has
    /dev/null, since their numbers must not come to mean other files while something may still write to them."""
    server = os.fork()
    if server:
        return server
    try:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        nothing = os.open(os.devnull, os.O_RDWR)
        for other in set(map(int, os.listdir("/dev/fd"))) - {0, 1, 2, nothing, *files}:
            os.dup2(nothing, other)
        exec(code)
    finally:
        os._exit(1)
