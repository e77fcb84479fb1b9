"""One thread a test process, since several share the cores; a seed for every test; this folder on the path."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers whichever tests ran before, and on whichever worker."""
    torch.manual_seed(0)
