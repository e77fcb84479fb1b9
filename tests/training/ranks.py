"""Processes as torchrun starts them: `launch`, `start`."""

import os
import pickle
import socket
import traceback
from multiprocessing.connection import Connection

from forks import FORKS


def launch(size: int, target, *arguments, limit: float = 300.0) -> list:
    """What `target(rank, *arguments)` returns on each of `size` processes; fails where one raises, or takes longer than
    `limit` seconds."""
    processes, connections = start(size, target, *arguments)
    found = [pickle.loads(c.recv_bytes()) if c.poll(limit) else f"no answer in {limit} s" for c in connections]
    for process in processes:
        process.join(10)
        process.kill()
    errors = [f"process {rank}: {each}" for rank, each in enumerate(found) if isinstance(each, str)]
    assert not errors, "\n".join(errors)
    return found


def start(size: int, target, *arguments) -> tuple[list, list[Connection]]:
    """The processes, and the ends of pipes on which each sends what `target(rank, *arguments)` returns; where it
    raises, the traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes, connections = [], []
    for rank in range(size):
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=_enter, args=(theirs, rank, size, port, target, arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        connections.append(ours)
    return processes, connections


def _enter(connection: Connection, rank: int, size: int, port: int, target, arguments) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    try:
        found = target(rank, *arguments)
    except BaseException:
        found = traceback.format_exc()
    connection.send_bytes(pickle.dumps(found))  # by value: `send` would hand over memory that ends with this process
