"""Distributed training: replicas, FSDP2, tensor and pipeline parallelism, lost ranks.

fp8: converts linear layers to fp8 with tensorwise scaling, by torchao
fp8_slices: fp8 linear layers under tensor parallelism, with scales shared by the ranks
fsdp: shards weights over ranks by PyTorch's FSDP2
full_tensors: converts between full checkpoint tensors and each rank's shards, one tensor at a time
gradient_reduction: how gradients are summed over ranks: not at all, in lanes of a fixed order, over the mesh
heartbeat: background thread that detects dead or stalled ranks and stops the others
launch: initializes the process group from torchrun's environment variables
layout: parallel configuration: validates the axes and assigns micro-batches to ranks
mesh: device mesh: a rank's coordinates and its process group along each axis
parallelize: applies tensor slicing, recomputation, fp8, torch.compile and FSDP2 to the network
pipeline_parallel: pipeline stages with the 1F1B schedule of torch.distributed.pipelining
pipeline_split: assigns layers to pipeline stages so that the slowest stage costs least
rank_progress: current activity of each rank, for the heartbeat and for outside observers
ranks: communication among the ranks of a run: key-value store and collectives
reductions: sums tensors over ranks: fastest order, or a fixed tree independent of the number of ranks
tensor_parallel: tensor and sequence parallelism: collectives within a layer and vocabulary-parallel loss
"""
