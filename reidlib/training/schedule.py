"""The learning rate's cosine schedule."""

import math


def cosine_with_rise(epoch: float, epochs: int) -> float:
    """The share of the full learning rate at a (fractional) epoch.

    It rises linearly from a tenth over two epochs, or over a fifth of `epochs` if that is less. Then it falls
    to zero along a cosine.
    """
    rise = min(2.0, epochs / 5)
    if epoch < rise:
        return 0.1 + 0.9 * epoch / rise
    return 0.5 * (1 + math.cos(math.pi * (epoch - rise) / max(epochs - rise, 1e-9)))
