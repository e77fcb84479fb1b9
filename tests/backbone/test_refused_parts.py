"""Options of parts, and parts beside one another, that cannot be: each is refused in one line."""

import pytest
from tiny import SPEECH, TEXT
from tiny_backbones import build

from mot_gen import backbone as backbones
from mot_gen.backbone.transformer import Backbone
from mot_gen.errors import InputError


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"mixer": "pool"}, "backbone.mixer.kind: pool alone never lets a picture see its caption"),
        (
            {"mixer": ["pool", "attention"], "depth": {"kind": "blocks", "group": 2}},
            "backbone.mixer.kind: with depth=blocks a picture may pass through pooled layers alone",
        ),
        ({"mixer": [{"kind": "pool", "size": 2}, "attention"]}, "backbone.mixer.size: must be odd"),
        ({"mixer": {"kind": "selected", "kept": 5}}, "backbone.mixer.kept: must be from 1 to the heads, 4, got 5"),
        ({"mixer": "selected", "head_choice": "routed"}, "backbone.mixer.kind: selected chooses heads itself"),
        ({"mixer": "stick_breaking", "bias": "gaussian"}, "backbone.mixer.kind: stick_breaking weighs keys by their"),
        (
            {"mixer": {"kind": "mixed_heads", "mixing": "kroneker"}},
            "mixer.mixing: 'kroneker' is not known",
        ),
        ({"mixer": "mixed_heads", "kv_heads": 2}, "backbone.mixer.kind: mixed_heads reads the width as heads; drop"),
        ({"mixer": {"kind": "combiner", "segment": 0}}, "backbone.mixer.segment: must be a positive integer"),
        ({"mixer": "combiner", "reach": "window"}, "backbone.mixer.kind: combiner says itself what a query sees"),
        ({"mixer": {"kind": "modules", "kept": 9}}, "backbone.mixer.kept: must be from 1 to the number of modules, 4"),
        ({"mixer": "kda"}, "backbone.mixer.bidirectional: KDA reads one way and tokens of 'image' see later ones"),
        ({"feed_forward": {"kind": "nested", "divisors": [0]}}, "feed_forward.divisors: must be from 1"),
        ({"feed_forward": "nested", "experts": 2}, "backbone.feed_forward.kind: nested is no expert"),
        ({"feed_forward": "nested", "activation": "poly_norm"}, "nested needs a function of each channel alone"),
        ({"feed_forward": {"kind": "slices", "slices": 5}}, "backbone.feed_forward.slices: 5 must divide the width"),
        ({"feed_forward": {"kind": "hidden_groups", "groups": 7}}, "feed_forward.groups: 7 must divide the width"),
        ({"feed_forward": {"kind": "continued_fraction", "least": 0.0}}, "feed_forward.least: must be above 0"),
        ({"feed_forward": {"kind": "adapted", "adapter": "domain"}}, "feed_forward.adapter: 'domain' is not known"),
        ({"feed_forward": {"kind": "adapted", "chosen": 9}}, "feed_forward.chosen: must be from 1 to choices, 4"),
        ({"feed_forward": {"kind": "adapted", "unit": "nested"}}, "feed_forward.unit: takes gated or plain"),
        ({"feed_forward": "domains"}, "feed_forward.domains: must name at least one, and each once, got"),
        ({"feed_forward": {"kind": "domains", "domains": ["gate"]}}, "feed_forward.domains: 'gate' cannot name param"),
        (
            {"feed_forward": {"kind": "domains", "domains": ["books"], "use": "book"}},
            "feed_forward.use: 'book' is not among the domains; did you mean 'books'",
        ),
        ({"depth": {"kind": "blocks", "group": 3}}, "backbone.depth.group: 3 must divide backbone.layers, 2"),
        ({"depth": {"kind": "blocks", "group": 2, "run": 3}}, "backbone.depth.run: must be from 1 to the layers"),
        (
            {"mixer": "linear", "head_choice": "routed"},
            "backbone.head_choice: no mixer here reads it",
        ),
        ({"mixer": ["pool", "linear"], "reach": "window"}, "backbone.reach: no mixer here reads it"),
        ({"residual": {"kind": "dual", "mixer": "context"}}, "backbone.residual.mixer: the context begins at zero"),
        ({"residual": "dual", "depth": "token_skip"}, "backbone.residual.kind: dual is for all layers and tokens"),
        ({"experts": 2, "router": {"kind": "gumbel", "coldest": 9.0}}, "backbone.router.coldest: must be above 0"),
        ({"experts": 2, "router": {"kind": "token_choice", "weight": "none"}}, "router.weight: 'none' is not known"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(options, complaint):
    with pytest.raises(InputError, match=complaint):
        build("mot", **options)


NEED_SPANS = [{"depth": "token_skip"}, {"depth": {"kind": "blocks", "group": 2}}, {"bias": "gaussian"}]


@pytest.mark.parametrize("options", NEED_SPANS, ids=str)
def test_what_is_for_pictures_that_are_there_as_a_whole_is_refused_without_them(options):
    """A choice among tokens that come one by one would see later ones."""
    _, config = backbones.load("mot", {"dim": 32, "layers": 2, "heads": 4, "multiple_of": 32, **options})
    with pytest.raises(InputError, match="is for bidirectional spans, which no modality here has; drop it"):
        Backbone(config, [TEXT, SPEECH])
