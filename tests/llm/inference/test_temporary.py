from types import SimpleNamespace

import pytest

from llm.inference.temporary import temporarily


def test_attributes_are_restored_after_an_error_as_well():
    first, second = SimpleNamespace(a=1, b=2), SimpleNamespace(a=3)

    def fail():
        with temporarily((owner, "a", 9) for owner in (first, second, first)):  # one of them twice
            assert (first.a, first.b, second.a) == (9, 2, 9)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert (first.a, first.b, second.a) == (1, 2, 3)


def test_nothing_is_changed_where_an_attribute_is_missing():
    first, second = SimpleNamespace(a=1), SimpleNamespace()
    with pytest.raises(AttributeError), temporarily([(first, "a", 9), (second, "a", 9)]):
        pytest.fail("entered")
    assert first.a == 1
