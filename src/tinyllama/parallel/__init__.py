"""Distributed training: replicas, FSDP2, tensor and pipeline parallelism, lost ranks.

fp8: the layers' products in fp8 with one scale a tensor (Micikevicius et al
full_tensors: between the canonical network, as checkpoints hold it, and the parts of it that ranks hold: tensor by
heartbeat: A thread on each rank that sees when the ranks no longer come on, and says which of them the others wait
launch: how a process finds its ranks: alone, or by what torchrun says in the environment (VARIABLES, and LOCAL_RANK)
layout: how ranks share the work of one run, checked once, before anything starts
mesh: where a rank stands in the layout: its coordinate along each axis, and the ranks that it works with along one
parallelize: lays a network out over the ranks: what each holds and what is wrapped around it
pipeline_parallel: stages of a pipeline on several ranks: one step's micro-batches go through them by 1F1B (Narayanan
pipeline_split: how many layers each stage of a pipeline has: as equal as lets the slowest be as fast as may be
rank_progress: where a rank is in its work: kept for the watch over the ranks, and for those who look from outside
ranks: the processes that train one network together, seen from one of them; a run of one process is a rank of its own
reductions: sums of tensors over the ranks: as fast as may be, or in one order for every number of ranks
tensor_parallel: collectives of one layer on several ranks: each has some heads, some columns of the feed-forward
"""
