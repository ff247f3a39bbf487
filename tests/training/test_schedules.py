import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.training.schedules import constant, onecycle, step


def test_onecycle_goes_up_then_down():
    factor = onecycle(warmup=0.25, start=0.04, end=0.01)
    assert factor(0) == pytest.approx(0.04)
    assert factor(0.125) == pytest.approx(0.52)
    assert factor(0.25) == pytest.approx(1)
    assert factor(0.625) == pytest.approx(0.505)
    assert factor(1) == pytest.approx(0.01)


@pytest.mark.parametrize(("warmup", "first", "last"), [(0, 1, 0), (1, 0.04, 1)])
def test_onecycle_at_its_ends(warmup, first, last):
    factor = onecycle(warmup=warmup)
    assert factor(0) == pytest.approx(first)
    assert factor(1) == pytest.approx(last)


def test_step_is_the_papers():
    factor = step()
    assert [factor(progress) for progress in (0, 0.3, 0.34, 0.6, 0.67, 1)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    with pytest.raises(UserError, match="factor must be above 0"):
        step(factor=0.0)


def test_constant_is_constant():
    assert {constant()(progress / 10) for progress in range(11)} == {1.0}
