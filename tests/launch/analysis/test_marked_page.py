"""The marked part of a page is replaced, and nothing else."""

import pytest

from conf.schema.base import ConfigError
from launch.analysis.marked_page import around, read_marked, write_marked

BEGIN, END = "<!-- begin -->\n", "<!-- end -->"
TEXT = "Before.\n<!-- begin -->\nold\n<!-- end -->\nAfter, with <!-- begin -->\nand <!-- end -->.\n"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(TEXT, "utf-8")
    return path


def test_only_the_marked_part_changes(page):
    before, after = around(page, BEGIN, END)
    assert before + "old\n" + after == TEXT
    assert read_marked(page, BEGIN, END) == "old\n"
    write_marked(page, BEGIN, END, "neu ü\n")
    assert page.read_bytes().decode("utf-8") == TEXT.replace("old", "neu ü", 1)
    write_marked(page, BEGIN, END, "old\n")
    assert page.read_text("utf-8") == TEXT  # nothing is added by writing twice


@pytest.mark.parametrize("text", ["", "<!-- begin -->\nold\n", "<!-- end -->\n<!-- begin -->\n"])
def test_a_page_without_the_marks_in_order_is_left_alone(page, text):
    page.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"page\.md: must have the lines '<!-- begin -->' and '<!-- end -->'"):
        write_marked(page, BEGIN, END, "new")
    assert page.read_text("utf-8") == text


def test_a_page_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.md: cannot be read: No such file"):
        around(tmp_path / "absent.md", BEGIN, END)
    (tmp_path / "latin.md").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"latin\.md: cannot be read: it is not UTF-8"):
        around(tmp_path / "latin.md", BEGIN, END)
