"""The training loop, optimizer, number formats, guards.

data_read: maps documents to the training steps that read them, and steps to their documents
forward_backward: forward and backward passes of one update, for one process and every layout
gradients: accumulates gradients in fp32 over micro-batches, and over ranks by a reduction
initial_weights: loads the weights of an existing model for continued pre-training
loss_spikes: detects loss spikes by a robust z-score over a window of losses
lr_schedule: learning-rate schedule: warmup, cosine decay or constant, cooldown
metrics: writes metrics.jsonl and events.jsonl; computes model FLOPs utilization
optimizer: AdamW over packed parameters, and gradient clipping
optimizer_kernel: Triton kernels for the fused AdamW update (fp32 master weights) and gradient accumulation
precision: number formats, fp16's loss scale, device selection, deterministic kernels
roll_back: rolls a run back to a checkpoint or ends it after loss spikes or skipped steps
run_checkpoints: saves, resumes and prunes a run's checkpoints; handles a full disk
run_data: opens a run's shards and tokenizer and verifies their fingerprints
run_guards: monitors a run for non-finite steps and loss spikes; keeps the quarantine list
step_clock: times steps asynchronously, without blocking the host on the current step
stop_requests: stops training cleanly on a signal or at the time limit
train_config: settings of pre-training, one class for each reader
train_state: master weights, optimizer moments, and their conversion to and from a checkpoint
train_step: one optimizer step: gradient accumulation, clipping, update
trainer: the training loop of one run, from token shards to checkpoints
"""
