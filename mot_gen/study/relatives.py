"""Names for backbones that a study compares: RELATIVES, each one change of a Mixture-of-Transformers.

The papers are in docs/relatives.md. Options that a study gives behind the name, `window:reach=...`, come on top.
"""

RELATIVES: dict[str, list[str]] = {
    "window": ["reach=[{kind: window, size: 16}, full]"],
    "moh": ["head_choice={kind: routed, shared: 1, top_k: 2}"],
    "polynorm": ["feed_forward=plain", "activation=poly_norm"],
    "token-skip": ["depth=[every, {kind: token_skip, share: 0.5}]"],
    "nested": ["feed_forward={kind: nested, divisors: [1, 2, 4]}"],
    "gaussian": ["bias=gaussian"],
    "pool-hybrid": ["mixer=[pool, attention]"],
    "kda-hybrid": ["mixer=[{kind: kda, bidirectional: two_pass}, attention]"],
    "linear-hybrid": ["mixer=[linear, attention]"],
    "combiner": ["mixer={kind: combiner, segment: 16}"],
    "stick-breaking": ["mixer=stick_breaking"],
    "modules": ["mixer={kind: modules, number: 8, kept: 4}"],
    "selected-heads": ["mixer=selected"],
    "mixed-heads": ["mixer=mixed_heads"],
    "slices": ["feed_forward={kind: slices, slices: 8, used: 4}"],
    "hidden-groups": ["feed_forward=hidden_groups"],
    "continued-fraction": ["feed_forward={kind: continued_fraction, least: 0.1}"],
    "dual-stream": ["residual=dual"],
    "blocks": ["depth={kind: blocks, group: 2, run: 1}"],
    "dense-to-sparse": ["experts=4", "router=gumbel"],
    "random-experts": ["experts=4", "router=random"],
}
