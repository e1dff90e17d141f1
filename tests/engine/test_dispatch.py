import pytest

from mlvlab_jax.engine.dispatch import Dispatch, divide


@pytest.mark.parametrize(
    ("done", "count", "num_steps", "due", "ends"),
    [
        (0, 4, 12, {12}, [4, 8, 12]),
        (0, 4, 10, {6, 10}, [4, 5, 6, 10]),
        (0, 4, 3, {3}, [1, 2, 3]),
        (5, 4, 12, {8}, [6, 7, 8, 12]),
        (12, 4, 12, {12}, []),
        (0, 4, 8, {4, 8}, [4, 8]),
    ],
)
def test_nothing_is_due_within_a_dispatch(done, count, num_steps, due, ends):
    found = list(divide(done, count=count, num_steps=num_steps, due=due.__contains__))
    assert [dispatch.last for dispatch in found] == ends
    assert [dispatch.first for dispatch in found] == [done, *ends][: len(ends)]
    assert all(isinstance(dispatch, Dispatch) for dispatch in found)
