import hashlib

import pytest

from tinyllama.sources.document import Document, document_id


def test_id_is_the_start_of_the_sha256_over_source_zero_byte_text():
    assert document_id("http://a/", "text") == hashlib.sha256(b"http://a/\0text").hexdigest()[:16]


def test_source_and_text_cannot_run_into_each_other():
    assert document_id("ab", "c") != document_id("a", "bc")


def test_a_lone_surrogate_has_an_id():
    assert len(document_id("s", "\ud800")) == 16


def test_a_document_does_not_change():
    document = Document(id="0", text="t", source="s")
    with pytest.raises(AttributeError):
        document.text = "other"  # pyright: ignore[reportAttributeAccessIssue]
