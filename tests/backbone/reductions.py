"""Whether one backbone reduces to another: both, what the two make of the same tokens; LAYOUT and TEXTS, the layouts of
their tokens; CLOSE, how near they come. In double precision; norms and rotations stay in single."""

from tiny import MODALITIES, mixed, words
from tiny_backbones import inputs

from mot_gen.packing import pack

CLOSE = {"atol": 1e-6, "rtol": 1e-6}
LAYOUT = pack(mixed(4), MODALITIES, 48).layout
TEXTS = pack([[words(9)], [words(5)]], MODALITIES, 24).layout


def both(usual, other, layout=LAYOUT):
    """What two backbones make of the same tokens, the second with the parameters of the first that it shares by name
    and shape."""
    shapes = {name: p.shape for name, p in other.named_parameters()}
    shared = {name: p for name, p in usual.state_dict().items() if shapes.get(name) == p.shape}
    other.load_state_dict(shared, strict=False)
    x = inputs(*layout.shape).double()
    return usual.double()(x, layout), other.double()(x, layout)
