"""Compiled kernels for small models on a CPU: whole passes of a Llama, Qwen2 or Qwen3 decoder in one call each.

A model of a few million weights is too small for a library of operations: on the miniature base five sixths of an
update went into passes between products, and most of a step of the sampler into starting operations. These kernels keep
a tile of tokens in cache through a layer, multiply in bfloat16 (AMX tiles or AVX-512 BF16) and add up in float32. They
are C++, compiled once a machine by the compiler found there; where there is none, or a processor without these
instructions, torch does the same work (``unavailable`` says why). They release Python's lock, so that lanes of the
learner run side by side.
"""

from __future__ import annotations

from r1kit.kernels._build import Batch, describe, load_library, unavailable

__all__ = ["Batch", "describe", "load_library", "unavailable"]
