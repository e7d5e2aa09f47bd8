"""Settings of the search for duplicates."""

from tinyllama.config import Config, setting


class DedupConfig(Config):
    """Keys of `[clean]` that the search for duplicates reads."""

    workers: int = setting(0, "Processes that work at the same time; 0: one per core.", changes_result=False, ge=0)
    max_memory_bytes: int = setting(
        2_000_000_000, "The search for duplicates works in ranges that fit into so much memory.",
        changes_result=False, ge=4096,
    )  # fmt: skip

    exact_duplicates: bool = setting(True, "Drop documents whose normalised text occurs elsewhere too, all but one.")
    near_duplicates: bool = setting(True, "Drop near-duplicates found by MinHash-LSH, all but one of a cluster.")
    keep_near_duplicates: bool = setting(False, "Keep all of a cluster, with its name, wholly in one split.")
    minhash_ngram_words: int = setting(5, "Words in a shingle.", ge=1)
    minhash_bands: int = setting(14, "Bands of the MinHash signature.", ge=1, le=1000)
    minhash_rows: int = setting(8, "Hashes in a band.", ge=1, le=1000)

    duplicate_paragraphs: bool = setting(True, "Take out paragraphs that stand in another document too.")
    min_paragraph_chars: int = setting(80, "Shorter paragraphs are not compared.", ge=1)
    max_copied_chars: float = setting(
        0.5, "A document with a larger share of characters in such paragraphs goes whole.", ge=0, le=1
    )
