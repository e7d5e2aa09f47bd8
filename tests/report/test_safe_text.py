"""Texts of strangers become text of a page: nothing in them is markup, ends an attribute, or cannot be shown."""

import pytest

from tinyllama.report.safe_text import text


def test_markup_and_both_quotes_are_escaped():
    assert text("""<a href="b" id='c'>&amp;""") == "&lt;a href=&quot;b&quot; id=&#x27;c&#x27;&gt;&amp;amp;"
    assert [text(value) for value in (None, 3.5, ["<"])] == ["None", "3.5", "[&#x27;&lt;&#x27;]"]


@pytest.mark.parametrize("character", [*"\x00\x08\x0b\x0d\x1f\x7f\x80\x9f\ud800\udbff\udfff\ufffe\uffff"])
def test_what_no_page_can_show_is_replaced(character: str):
    assert text(f"a{character}b") == "a\ufffdb"


@pytest.mark.parametrize("character", [*"\t\n ~\xa0\ud7ff\ue000\ufffd\U0001f600"])
def test_what_a_page_can_show_stays(character: str):
    assert text(f"a{character}b") == f"a{character}b"


def test_a_text_is_cut_after_its_limit_before_it_is_escaped():
    assert text("&" * 4000) == "&amp;" * 4000
    assert text("&" * 4001) == "&amp;" * 4000 + " …"
    assert text("abc", 3) == "abc"
    assert text("abcd", 3) == "abc …"
    assert text("\x00bcd", 3) == "\ufffdbc …"
