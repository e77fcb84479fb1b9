"""Nothing is added to the scores."""

from mot_gen.backbone import parts


class Bias(parts.Bias):
    """It has no options."""

    empty = True
