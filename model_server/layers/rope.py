"""Rotary position embedding on the first dimensions of each head (rotate-half pairing)."""

import torch
from torch import Tensor


def rotary_table(positions: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1, T, rotary_dim / 2] in f32 for positions [B, T]."""
    exponents = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=torch.float32) / rotary_dim
    # 1 / theta**e and not theta**-e: the last bit differs, and a far position multiplies it.
    angles = positions[:, None, :, None].float() * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the leading dimensions of x [B, N, T, D]; dimension d is paired with d + rotary_dim / 2."""
    cos, sin = (part.to(x.dtype) for part in table)
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)
