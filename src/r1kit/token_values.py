"""What the trainer found at each token of a rollout, two bytes a token: how runs write it and reports read it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

UNKNOWN = 255
ENTROPY_SCALE = 40
"""An entropy of h nats is kept as round(40 sqrt(h)), at most 254 (40 nats): exact to 0.025 sqrt(h) nats."""
RATIO_SCALE, RATIO_ZERO, RATIO_MOST = 127, 127, 1.0
"""A log-ratio r in nats, cut to [-1, 1], is kept as 127 + round(127 sqrt(|r|) sign(r)): exact to 0.008 sqrt(|r|)."""

Floats = npt.NDArray[np.float32]


def pack(entropy: Floats, log_ratio: Floats) -> dict[str, str]:
    """Base64 of a byte a token each; NaN stands for a token that the trainer did not look at."""
    known = np.isfinite(entropy) & np.isfinite(log_ratio)
    h = np.where(known, np.maximum(0.0, entropy), 0.0)
    r = np.where(known, np.clip(log_ratio, -RATIO_MOST, RATIO_MOST), 0.0)
    entropy_bytes = np.minimum(UNKNOWN - 1, np.round(ENTROPY_SCALE * np.sqrt(h)))
    ratio_bytes = RATIO_ZERO + np.round(RATIO_SCALE * np.sqrt(np.abs(r)) * np.sign(r))
    return {
        name: base64.b64encode(np.where(known, values, UNKNOWN).astype(np.uint8).tobytes()).decode()
        for name, values in (("entropy", entropy_bytes), ("log_ratio", ratio_bytes))
    }


def unpack_bytes(row: Mapping[str, Any], count: int) -> bytes:
    """The entropies' bytes, then the log-ratios', of a row that ``pack`` made for ``count`` tokens; none where it is
    something else."""
    try:
        parts = [base64.b64decode(row[name], validate=True) for name in ("entropy", "log_ratio")]
    except (KeyError, TypeError, ValueError, binascii.Error):
        return b""
    return b"".join(parts) if all(len(part) == count for part in parts) else b""


def unpack(row: Mapping[str, Any], count: int) -> tuple[Floats, Floats]:
    """Entropies and log-ratios in nats of a row that ``pack`` made, NaN where unknown. ValueError for another row."""
    packed = unpack_bytes(row, count)
    if len(packed) != 2 * count:
        raise ValueError(f"no values of {count} tokens")
    entropy, ratio = np.frombuffer(packed, dtype=np.uint8).astype(np.float32).reshape(2, count)
    unknown, signed = entropy == UNKNOWN, (ratio - RATIO_ZERO) / RATIO_SCALE
    values = (entropy / ENTROPY_SCALE) ** 2, np.sign(signed) * signed**2
    nothing = np.float32(np.nan)
    return np.where(unknown, nothing, values[0]), np.where(unknown, nothing, values[1])
