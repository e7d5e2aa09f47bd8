import pytest

from tinyllama.cleaning.extract import NO_TEXT, TOO_HARD, ExtractPool, main_text

ITEM = "An item of the list that says something of use to the reader."
PAGE = f"""<html><head><title>T</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home</a></li></ul></nav>
<main><h1>numpy.add</h1><p>Add   arguments<br>element-wise, if a &lt; b. See <a href="x">more</a>.</p>
<ul><li>{ITEM}</li><li>{ITEM} Again.</li></ul><pre>
&gt;&gt;&gt; def f(x):
...     return {{x}}

5.0
</pre>After<ol><li>first</li><li>second</li></ol></main>
<script>var x = "<p>no</p>";</script><footer>Copyright</footer></body></html>"""


def test_paragraphs_headings_lists_and_code_stay() -> None:
    assert main_text(PAGE) == (
        "numpy.add\n\nAdd arguments\nelement-wise, if a < b. See more.\n\n"
        f"  • {ITEM}\n  • {ITEM} Again.\n\n"
        ">>> def f(x):\n...     return {x}\n\n5.0\n\nAfter\n  1. first\n  2. second"
    )


@pytest.mark.parametrize(
    "html", ["", "   ", "\0", "<", "<html>", "<body></body>", "<nav>menu</nav>", "<script>x</script>"]
)
def test_pages_without_text(html: str) -> None:
    assert main_text(html).strip("\0\ufffd<") == ""


def test_worker_gives_what_the_function_gives() -> None:
    with ExtractPool(page_cpu_seconds=10) as pool:
        assert pool.text_of(PAGE) == (main_text(PAGE), "")
        assert pool.text_of("<p>中文 é</p>") == ("中文 é", "")
        assert pool.text_of("") == ("", NO_TEXT)
        assert pool.text_of("<p>half \ud800 pair</p>") == ("half ? pair", "")


def test_a_page_that_takes_too_long_is_dropped_and_the_next_is_read() -> None:
    with ExtractPool(page_cpu_seconds=0.2) as pool:
        assert pool.text_of("<div>" * 100_000 + "x") == ("", TOO_HARD)
        assert pool.text_of("<p>next</p>") == ("next", "")
