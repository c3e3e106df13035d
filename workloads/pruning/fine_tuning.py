"""A few steps of training with the pruning in the forward pass (SpAtten, section V-A: fine-tuning after pruning).

Which tokens a policy keeps at a byte depends on all bytes before it, so pruning proper runs byte by byte.  For
training, all bytes of a window go at once, with masks from the scores of a dense pass: byte i in layer l sees
the tokens that lead by what all earlier bytes gave them in all layers, and byte i itself in the layers before l.
Left out: that a dropped token stays dropped, number formats, and thresholds.  The masks have no gradient;
weights learn through what is kept.  The paper trains about two GPU hours a task; here a hundred steps.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from workloads.policy import Policy
from workloads.pruning.torch_attention import attend
from workloads.schedule import keep_counts


def fine_tune(
    decoder: Any,
    text: bytes,
    policy: Policy,
    *,
    steps: int,
    prompt: int = 256,
    generated: int = 128,
    batch: int = 8,
    rate: float = 1e-4,
    seed: int = 0,
) -> Any:
    """A copy of the decoder after `steps` of AdamW on windows of `text`; the given one is not changed.

    Each window has a dense prompt; the loss is that of its last `generated` bytes, which see what the policy keeps.
    The same seed draws the same windows for every policy.  Raises ValueError for a policy with a threshold.
    """
    import copy

    import torch

    if policy.token_threshold:
        raise ValueError(f"fine_tune: token_threshold must be 0, got {policy.token_threshold}")
    model = copy.deepcopy(decoder).train().requires_grad_(True)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step, window in enumerate(draw_windows(text, prompt + generated + 1, batch, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10, 2 * (steps - step) / steps)  # warm up; fall in the second half
        loss = training_loss(model, window.to(device), policy, prompt)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(False)


def draw_windows(text: bytes, size: int, batch: int, steps: int, seed: int) -> Iterator[Any]:
    """int64 [batch, size] windows from random places; raises ValueError where the text is shorter than one."""
    import torch

    if len(text) <= size:
        raise ValueError(f"fine_tune: text must be longer than a window of {size} bytes, got {len(text)}")
    draw, data = np.random.default_rng(seed), np.frombuffer(text, np.uint8)
    for _ in range(steps):
        starts = draw.integers(0, len(data) - size, batch)
        yield torch.from_numpy(data[starts[:, None] + np.arange(size)].astype(np.int64))


def training_loss(model: Any, window: Any, policy: Policy, prompt: int) -> Any:
    """Cross entropy (nats) of the bytes behind the prompt, each predicted under the policy's masks."""
    import torch

    tokens = window[:, :-1]
    masks, heads = masks_of(model, tokens, policy, prompt)

    def hook(layer: int, query: Any, key: Any, value: Any) -> Any:
        result = attend(query, key, value, policy, seen=masks[layer][:, None])
        rows = torch.arange(query.shape[2], device=query.device) >= prompt
        return torch.where(rows[:, None] & ~heads[layer][:, :, None, None], 0, result.context)

    logits = model(tokens, attend=hook)[:, prompt:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, prompt + 1 :].flatten())


def masks_of(model: Any, tokens: Any, policy: Policy, prompt: int) -> tuple[list[Any], list[Any]]:
    """Per layer: tokens that each byte sees, bool [B, n, n], and kept heads, bool [B, H], from a dense pass."""
    import torch

    received, sizes = [], []
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()

    def collect(layer: int, query: Any, key: Any, value: Any) -> Any:
        result = attend(query, key, value, policy, seen=causal[None, None].expand(len(query), 1, -1, -1))
        received.append(result.probability.sum(dim=1))
        sizes.append(result.context[:, :, :prompt].abs().sum(dim=(2, 3)))
        return result.context

    with torch.no_grad():
        model(tokens, attend=collect)
    return _token_masks(received, policy, prompt, causal), _head_masks(sizes, policy, tokens.shape[1])


def _token_masks(received: list[Any], policy: Policy, prompt: int, causal: Any) -> list[Any]:
    """received: [B, n, n] of each layer, what byte i gave to token j."""
    import torch

    layers, length, device = len(received), len(causal), causal.device
    counts = [keep_counts(policy, layers, m, 1, scored=True)[0] for m in range(1, length + 1)]
    score = torch.stack(received).sum(dim=0).cumsum(dim=1) - torch.stack(received).sum(dim=0)  # of earlier bytes
    masks, before = [], causal.expand_as(score)
    for layer, given in enumerate(received):
        count = torch.tensor([int(one[layer]) for one in counts], device=device)
        ranked = score.masked_fill(~before, -torch.inf)
        distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        spared = (distance >= 0) & (distance < count[:, None].clamp(max=policy.token_recent).clamp(min=1))
        ranked = ranked.masked_fill(spared & before, torch.inf)  # the byte that asks, and recent ones
        order = ranked.argsort(dim=-1, descending=True, stable=True)
        leading = torch.arange(length, device=device) < count[:, None]
        best = torch.zeros_like(before).scatter(-1, order, leading.expand_as(order))
        kept = best & before
        kept[:, :prompt] = causal[:prompt]
        before = causal.expand_as(score) if policy.readmit else kept
        masks.append(kept)
        score = score + given * kept
    return masks


def _head_masks(sizes: list[Any], policy: Policy, length: int) -> list[Any]:
    """The heads that lead after the prompt; sizes: [B, H] of each layer."""
    import torch

    total = torch.stack(sizes).sum(dim=0)
    heads = total.shape[1]
    counts = keep_counts(policy, len(sizes), length, heads, scored=True)[1]
    rank = total.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return [rank < int(count) for count in counts]
