"""Escapes texts of a run for HTML: they come from the web, from a network or from a file, and are not trusted."""

import re
from html import escape
from typing import Any

MAX_TEXT_CHARS = 4000
# Neither tab, line feed nor printable; and the halves of UTF-16 pairs, which no file can hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(value: Any, limit: int = MAX_TEXT_CHARS) -> str:
    """Any value as safe HTML text: control characters replaced, cut at `limit` characters, escaped."""
    plain = str(value)
    plain = plain if len(plain) <= limit else plain[:limit] + " …"
    return escape(_UNPRINTABLE.sub("\ufffd", plain), quote=True)
