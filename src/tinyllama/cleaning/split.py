"""Which split a document belongs to: a function of its id alone."""

import hashlib


def is_validation(document_id: str, fraction: float) -> bool:
    """True for about `fraction` of all ids: those whose hash, read as a number in [0, 1), is below it.

    No other document has a say, so a document stays in its split when the corpus grows, and a larger fraction keeps
    every validation document of a smaller one.
    """
    digest = hashlib.sha256(b"split\0" + document_id.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64
