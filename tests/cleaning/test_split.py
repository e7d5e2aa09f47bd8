import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tinyllama.hashing import is_validation


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_keeps_the_smaller_ones_documents(identity: str, a: float, b: float) -> None:
    small, large = sorted((a, b))
    assert is_validation(identity, large) or not is_validation(identity, small)


def test_share_and_bounds() -> None:
    ids = [f"{n:016x}" for n in range(20_000)]
    chosen = sum(is_validation(identity, 0.01) for identity in ids)
    assert 150 < chosen < 250  # 200 expected, standard deviation 14
    assert not any(is_validation(identity, 0.0) for identity in ids)


def test_the_rule_is_fixed() -> None:
    """A document must stay in its split in later versions too: the rule, written out once more."""
    for identity in ("a", "b", "0123456789abcdef"):
        value = int(hashlib.sha256(b"split\0" + identity.encode()).hexdigest()[:16], 16) / 2**64
        assert is_validation(identity, value + 1e-9)
        assert not is_validation(identity, value - 1e-9)
