from hypothesis import given
from hypothesis import strategies as st

from flows.stages.choose import _audits_due


@given(share=st.floats(0, 1), batches=st.lists(st.integers(1, 20), max_size=30))
def test_audits_add_up_to_their_share(share: float, batches: list[int]) -> None:
    before = audits = 0
    for size in batches:
        due = _audits_due(before, size, share)
        assert 0 <= due <= size
        audits += due
        before += size
    assert audits == int(share * before + 1e-9)
