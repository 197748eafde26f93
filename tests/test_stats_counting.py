"Counting at cut points gives what sorting gives, whatever the floats."

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.stats.counting import count_at

floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
cut_points = st.sets(st.floats(width=32, allow_nan=False), min_size=1, max_size=40)


@given(st.lists(floats, max_size=80), cut_points, st.booleans())
def test_counts_are_those_of_sorted_values(values: list[float], cuts: set[float], on_cuts: bool) -> None:
    at = np.unique(np.array(sorted(cuts), np.float32))
    drawn = np.array(values + sorted(cuts) * on_cuts, np.float32)
    found, ordered = count_at(drawn, at), np.sort(drawn[drawn == drawn])
    assert found.valued == len(ordered)
    assert (found.below == np.searchsorted(ordered, at, "left")).all()
    assert (found.upto == np.searchsorted(ordered, at, "right")).all()


def test_nulls_of_either_sign_are_no_values() -> None:
    both = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32)
    found = count_at(np.append(both, np.float32(1)), np.array([0, 1], np.float32))
    assert (found.valued, found.below.tolist(), found.upto.tolist()) == (1, [0, 0], [0, 1])
