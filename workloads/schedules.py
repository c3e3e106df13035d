"""Schedules by name: the share of tokens or heads that takes part in each layer. Data, no code.

A name stands for the tuple in `token_keep` or `head_keep` of a policy.  The paper's own rule needs no name:
one share with `token_front` and `head_front` (SpAtten, section V-A).
"""

# Read off the generation steps of the traces that SpAtten's authors released with their code
# (github.com/mit-han-lab/spatten, hardware/workloads): kept keys over 1024 tokens, heads over 16.
# They prune from the first layers on, not after 15 % of them, and heads in the last third only.
SCHEDULES: dict[str, tuple[float, ...]] = {
    "released_gpt2_small": (0.9, 0.7, *[0.2] * 4, *[0.1] * 6),  # gpt2-small-wikitext2-per8, 12 layers
    "released_gpt2_medium": (  # gpt2-medium-wikitext2-per0-hp-step5, 24 layers
        *(1.0, 1.0, 0.9, 0.8, 0.8),
        *[0.6] * 6,
        *[0.3] * 13,
    ),
    "released_gpt2_medium_heads": (*[1.0] * 16, *[13 / 16] * 6, *[10 / 16] * 2),  # the same trace
}
