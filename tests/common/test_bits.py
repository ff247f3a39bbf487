import numpy as np
import pytest

from stn_experiments.common.bits import pack_bits, unpack_bits


@pytest.mark.parametrize("count", [1, 8, 10_003])
def test_bits_are_kept_as_a_short_text(count):
    values = np.random.default_rng(count).random(count) < 0.01
    text = pack_bits(values)
    assert (unpack_bits(text, count) == values).all()
    assert len(text) < 400


@pytest.mark.parametrize("text", ["?", "AAAA", pack_bits(np.zeros(9, bool))])
def test_damaged_text_is_an_error(text):
    with pytest.raises(ValueError, match=r"."):
        unpack_bits(text, 100)
