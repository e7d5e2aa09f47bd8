"""Deduplication of a whole corpus by hashing, in bounded memory.

components: connected components of near-duplicate pairs, in memory or out of core by large-star/small-star
dedup_config: configuration of deduplication
duplicate_tasks: deduplication tasks by hash range: equal ids, equal texts, near-duplicates, paragraphs
find_duplicates: runs the deduplication tasks in order and collects their results
hash_records: on-disk records of document, paragraph, line and band hashes, read by hash range
minhash: exact-duplicate hashes and MinHash signatures with locality-sensitive hashing
"""
