"""Duplicates over the whole corpus, by hashing, in bounded memory.

components: connected components of near-duplicate pairs: SciPy's while the pairs fit in memory, else in rounds over
dedup_config: settings of the search for duplicates
duplicate_tasks: duplicates over a whole corpus, a hash range at a time: documents with one id, with one text
find_duplicates: the order of the search for duplicates: which steps, with which tasks, and what is known after each
hash_records: hashes of documents, paragraphs, lines and bands on disk, read back a range at a time: how memory stays
minhash: duplicates: exact ones by a hash of the normalised text, near ones by MinHash and locality-sensitive hashing
"""
