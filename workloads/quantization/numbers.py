"""Number formats in torch: codes and values of E2M1, E4M3 and NF4, scales of groups, fake-quantized activations.

Weights are [N, K], activations [M, K], groups lie along K. Scales and codes of weights are taken in float64 with the
roundings of `accel.formats`, which has the same recipes in NumPy (tested equal); activations in the type of x.
"""

from typing import Any

from accel.formats import number

Tensor = Any
GELU_SHIFT = 11 / 64  # above -min(GELU) = 0.16997: Nunchaku v1.1 adds it and quantizes GELU outputs unsigned
E4M3_MAX, E2M1_MAX = 448.0, 6.0


def divide(x: Tensor, by: Tensor) -> Tensor:
    """x / by, and 0 where `by` is 0 (a group of zeros)."""
    import torch

    return torch.where(by == 0, torch.zeros_like(x), x / torch.where(by == 0, torch.ones_like(by), by))


def grouped(x: Tensor, group: int) -> Tensor:
    """[rows, K / group, group] of x [rows, K]."""
    return x.reshape(x.shape[0], -1, group)


def rounded(x: Tensor, dtype: Any) -> Tensor:
    """x on the grid of a 16-bit type, in the type that x had."""
    return x.to(dtype).to(x.dtype)


def rounded_scale(scale: Tensor, dtype: Any) -> Tensor:
    """float64 scales in a 16-bit type with one rounding, 1 where that gives 0. ValueError where one is too large."""
    import torch

    near = scale.float()  # rounded to odd, so that the second rounding is the first that counts
    aside = torch.where(near.double() < scale, torch.inf, -torch.inf).float()
    even = (near.view(torch.int32) & 1) == 0
    found = torch.where((near.double() != scale) & even, torch.nextafter(near, aside), near).to(dtype)
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"the largest scale {float(scale.max()):.6g} is not finite in {dtype}")
    return torch.where(found == 0, torch.ones_like(found), found)


def encode_e2m1(x: Tensor) -> Tensor:
    """uint8 codes 0..15 (sign in bit 3), to nearest, ties to the even code, saturating at 6."""
    import torch

    return (_nearest("e2m1", x.abs()) + 8 * torch.signbit(x)).to(torch.uint8)


def _nearest(name: str, x: Tensor) -> Tensor:
    """Places of x among the values of a number, from the smallest up."""
    import torch

    return torch.bucketize(x.double().contiguous(), torch.tensor(number(name).limits, device=x.device))


def decode_e2m1(codes: Tensor) -> Tensor:
    """float32 values of the codes."""
    return _values("e2m1", codes)


def _values(name: str, codes: Tensor) -> Tensor:
    import torch

    return torch.tensor(number(name).values, device=codes.device)[codes.long()]


def encode_e4m3(x: Tensor) -> Tensor:
    """uint8 codes of x, to nearest even, saturating at 448; float64 x must not be negative."""
    import torch

    if x.dtype == torch.float64:  # one rounding, by the table; scales have no sign
        return _nearest("e4m3", x).clamp(max=len(number("e4m3").limits)).to(torch.uint8)
    return x.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)


def decode_e4m3(codes: Tensor) -> Tensor:
    """float32 values of the codes."""
    import torch

    return codes.contiguous().view(torch.float8_e4m3fn).float()


def encode_nf4(x: Tensor) -> Tensor:
    """uint8 codes of x in -1..1: the nearest value, the lower one of two."""
    import torch

    return _nearest("nf4", x).to(torch.uint8)


def decode_nf4(codes: Tensor) -> Tensor:
    """float32 values of the codes."""
    return _values("nf4", codes)


def sixteen_bits(x: Tensor, dtype: Any, unsigned: bool) -> Tensor:
    """Activations that stay 16-bit floats."""
    return rounded(x, dtype)


def int8_tokens(x: Tensor, dtype: Any, unsigned: bool) -> Tensor:
    """INT8 by token, symmetric: codes from absmax / 127, value from the scale in 16 bit."""
    return _by_range(x, 127, -127, dtype)


def int4_groups(x: Tensor, dtype: Any, unsigned: bool) -> Tensor:
    """INT4 by token and 64 channels: absmax / 7, or 0..15 with absmax / 15; codes from the unrounded scale."""
    found = _by_range(grouped(x, 64), 15 if unsigned else 7, 0 if unsigned else -8, dtype)
    return found.reshape(x.shape)


def _by_range(x: Tensor, high: int, low: int, dtype: Any) -> Tensor:
    scale = x.abs().amax(-1, keepdim=True) / high
    return divide(x, scale).round().clamp(low, high) * rounded(scale, dtype)


def nvfp4_groups(x: Tensor, dtype: Any, unsigned: bool) -> Tensor:
    """NVFP4 by token and 16 channels: E2M1 with the E4M3 scale absmax / 6, no scale of the tensor.

    Codes from the unrounded scale, as in Nunchaku v1.1; `accel.formats.blocks` takes the rounded one, which is nearer.
    """
    parts = grouped(x, 16)
    scale = (parts.abs().amax(-1, keepdim=True) / E2M1_MAX).clamp(max=E4M3_MAX)
    codes = encode_e2m1(divide(parts, scale))
    return (decode_e2m1(codes).to(x.dtype) * decode_e4m3(encode_e4m3(scale)).to(x.dtype)).reshape(x.shape)
