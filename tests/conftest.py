"""One thread a test process, since several share the cores; and this folder on the path, for `tiny`."""

import torch

torch.set_num_threads(1)
