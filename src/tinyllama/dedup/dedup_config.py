"""Settings of deduplication."""

from tinyllama.config import Config, setting


class WorkConfig(Config):
    """Resources of all steps of cleaning."""

    workers: int = setting(0, "Worker processes; 0: one per core.", changes_result=False, ge=0)
    max_memory_bytes: int = setting(2_000_000_000, "Memory limit of deduplication.", changes_result=False, ge=4096)


class DedupConfig(WorkConfig):
    """Keys of `[clean]` that deduplication reads."""

    exact_duplicates: bool = setting(True, "Of documents with equal normalised text keep one.")
    near_duplicates: bool = setting(True, "Of a cluster of near-duplicates, found by MinHash-LSH, keep one document.")
    keep_near_duplicates: bool = setting(False, "Keep whole clusters, with their name, each in one split.")
    minhash_ngram_words: int = setting(5, "Words per shingle.", ge=1)
    minhash_bands: int = setting(14, "Bands of the MinHash signature.", ge=1, le=1000)
    minhash_rows: int = setting(8, "Hashes per band.", ge=1, le=1000)

    duplicate_paragraphs: bool = setting(True, "Remove paragraphs that another document contains too.")
    min_paragraph_chars: int = setting(80, "Shorter paragraphs are not compared.", ge=1)
    max_copied_chars: float = setting(0.5, "A document that would lose a larger share is dropped.", ge=0, le=1)
