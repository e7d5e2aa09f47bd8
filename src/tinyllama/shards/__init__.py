"""Token ids on disk, and the order in which training reads them.

batches: micro-batches of training: from a step's number straight to its tokens, with no state that could be lost
quarantine: windows that a run takes out of its data on the way, and the order of the rest
shard_format: token shards on disk, format version 1
shard_writer: documents to token shards: one pass a split; a killed run goes on behind the last finished file
shards_config: settings of token shards
window_documents: which documents lie in which training windows, both ways, from the rows beside each shard file
window_order: the order in which training reads windows: a keyed permutation that is computed, never stored
"""
