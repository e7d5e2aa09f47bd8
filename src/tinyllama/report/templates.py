"""The Jinja environment of the report.

It escapes every value that a template prints: texts of a run come from the web, from a model or from a file, and are not
trusted.
"""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinyllama.report.ticks import duration, exact, percent, short, size

MAX_TEXT_CHARS = 4000
# Control characters other than tab and line feed, noncharacters, and surrogates, which UTF-8 cannot encode.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def shortened(value: Any, limit: int = MAX_TEXT_CHARS) -> str:
    """The value as text, ended with an ellipsis after `limit` characters."""
    text = str(value)
    return text if len(text) <= limit else text[:limit] + " …"


def spaced(name: str) -> str:
    """A name in snake case with blanks."""
    return name.replace("_", " ")


def _printable(value: Any) -> str:
    """What a template prints, before it is escaped: unprintable characters become U+FFFD. Output of a macro is final."""
    return value if isinstance(value, Markup) else _UNPRINTABLE.sub("\ufffd", str(value))


environment = Environment(
    loader=PackageLoader("tinyllama.report", ""),
    autoescape=True,
    finalize=_printable,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
environment.filters.update(
    shortened=shortened, spaced=spaced, exact=exact, short=short, percent=percent, size=size, duration=duration
)
