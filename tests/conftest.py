"""One thread a test process, since several share the cores; quick seeds, one for every test; the server of processes
that tests start."""

import pytest
import torch
from forks import serving

torch.set_num_threads(1)
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():
        # torch.manual_seed would write down its callers for each of them, in case it comes: a millisecond a call.
        device.manual_seed_all = lambda seed: None


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers whichever tests ran before, and on whichever worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def server():
    """Begun before any test has run: see `forks`."""
    with serving():
        yield
