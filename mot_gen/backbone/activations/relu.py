"""max(x, 0): of a gated unit, ReGLU (arXiv 2002.05202)."""

import torch.nn.functional as F

from mot_gen.backbone import parts


class Activation(parts.Activation):
    """It has no options."""

    function = staticmethod(F.relu)
