"""Values of tokens, a byte each: what is kept of them, and that nonsense is not read."""

from __future__ import annotations

import numpy as np
import pytest

from r1kit.token_values import pack, unpack, unpack_bytes


def test_what_is_kept_is_exact_to_the_step_that_is_promised() -> None:
    random = np.random.default_rng(0)
    entropy = np.concatenate([[0.0, 40.0], random.exponential(1.0, 500)]).astype(np.float32)
    log_ratio = np.concatenate([[0.0, -1.0], random.normal(0, 0.3, 500)]).clip(-1, 1).astype(np.float32)
    entropy[7], log_ratio[9] = np.nan, np.inf
    found_entropy, found_ratio = unpack(pack(entropy, log_ratio), 502)
    unknown = np.isin(np.arange(502), [7, 9])
    assert np.isnan(found_entropy).tolist() == np.isnan(found_ratio).tolist() == unknown.tolist()
    known = ~unknown
    # half a step of the square root, and its square near 0
    assert (np.abs(found_entropy - entropy)[known] <= 0.025 * np.sqrt(entropy[known]) + 2e-4).all()
    assert (np.abs(found_ratio - log_ratio)[known] <= 0.008 * np.sqrt(np.abs(log_ratio[known])) + 2e-5).all()
    assert (found_entropy[0], found_ratio[0], found_ratio[1]) == (0.0, 0.0, -1.0)


def test_a_ratio_beyond_a_factor_of_e_is_cut() -> None:
    _, ratio = unpack(pack(np.zeros(2, np.float32), np.array([7.0, -7.0], np.float32)), 2)
    assert ratio.tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    "row",
    [{}, {"entropy": "AAAA"}, {"entropy": 3, "log_ratio": 4}, {"entropy": "AA*A", "log_ratio": "AAAA"},
     {"entropy": "é", "log_ratio": "AAAA"}, {"entropy": "AAAAAAAA", "log_ratio": "AAAA"}],
)  # fmt: skip
def test_other_rows_have_no_values(row: dict[str, object]) -> None:
    assert unpack_bytes(row, 3) == b""
    with pytest.raises(ValueError, match="3 tokens"):
        unpack(row, 3)
