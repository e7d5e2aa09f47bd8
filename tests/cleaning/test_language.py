import gzip
import json
from pathlib import Path

import pytest

from tinyllama.cleaning.language import LanguageDetector

SAMPLE = Path(__file__).parents[3] / "shared" / "langid" / "lingua_sentences_test.jsonl.gz"


def test_language_identification_uses_more_than_eighty_characters() -> None:
    heading = "Geschichte der Stadt und ihrer Umgebung, nach alten Handschriften erzählt von ihr.\n"
    english = "This town is old, and its story has been told many times by those who lived in it. " * 10
    assert len(heading) > 80
    assert LanguageDetector(80).detect(heading + english)[0] == "de"
    assert LanguageDetector(2000).detect(heading + english)[0] == "en"


@pytest.mark.parametrize("text", ["", " \n\n", "12345 --- ...", "\0"])
def test_a_text_without_a_letter_has_no_language(text: str) -> None:
    assert LanguageDetector().detect(text) == ("", 0.0)


def test_confidence_is_a_probability() -> None:
    language, confidence = LanguageDetector().detect("Il était une fois un roi qui avait trois filles.\r\nVoilà.")
    assert language == "fr"
    assert 0.5 < confidence <= 1


@pytest.mark.skipif(not SAMPLE.exists(), reason="the language sample is not here")
def test_accuracy_on_sentences_of_many_languages() -> None:
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    detector = LanguageDetector()
    chosen = [row for row in rows if row["label"] in {"en", "de", "fr", "es", "it", "ru", "zh", "ja", "ar", "hi"}]
    right = sum(detector.detect(row["text"])[0] == row["label"] for row in chosen)
    assert right / len(chosen) > 0.93
