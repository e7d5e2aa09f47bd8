"""Token ids on disk, and the order in which training reads them.

batches: micro-batches of training tokens, computed from the step number without stored state
quarantine: windows excluded from training from a given step on, and the resulting sample order
shard_format: on-disk format of token shards, version 1
shard_writer: tokenizes documents into token shards; resumes after the last complete file
shards_config: configuration of token shards
window_documents: maps documents to training windows and windows to documents
window_order: shuffled order of training windows, computed as a keyed Feistel permutation
"""
