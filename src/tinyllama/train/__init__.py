"""The training loop, optimizer, number formats, guards.

cut_gradients: gradient reduction for sharded, tensor-parallel and pipeline-parallel training
cut_state: training state of one rank when the network is split over several ranks
cut_step: forward and backward passes of one step when the network is split over several ranks
data_read: maps documents to the training steps that read them, and steps to their documents
deterministic: selects deterministic kernels and CPU thread counts for `train.deterministic_reduction`
fp8_widths: checks that the network's layer widths allow fp8 products
gradients: accumulates gradients in fp32 over micro-batches and ranks
initial_weights: loads the weights of an existing model for continued pre-training
loss_scale: dynamic loss scaling for fp16
loss_spikes: detects loss spikes by a robust z-score over a window of losses
lr_schedule: learning-rate schedule: warmup, cosine decay or constant, cooldown
metrics: writes metrics.jsonl and events.jsonl; computes model FLOPs utilization
micro_batch: a micro-batch on the device, and the metrics summed over micro-batches
optimizer: AdamW over packed parameters, and gradient clipping
optimizer_kernel: Triton kernels for the fused AdamW update (fp32 master weights) and gradient accumulation
precision: dtypes of fp32, bf16, fp16 and fp8 training; device selection
rank_state: creates the training state of one rank, for whole or split networks
roll_back: rolls a run back to a checkpoint or ends it after loss spikes or skipped steps
run_checkpoints: saves, resumes and prunes a run's checkpoints; handles a full disk
run_data: opens a run's shards and tokenizer and verifies their fingerprints
run_guards: monitors a run for non-finite steps and loss spikes; keeps the quarantine list
step_clock: times steps asynchronously, without blocking the host on the current step
stop_requests: stops training cleanly on a signal or at the time limit
train_config: configuration of pre-training
train_state: master weights, optimizer moments, loss scale and the compiled network
train_step: one optimizer step: gradient accumulation, clipping, update
trainer: the training loop of one run, from token shards to checkpoints
"""
