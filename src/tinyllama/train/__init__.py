"""The training loop, optimizer, number formats, guards.

cut_gradients: gradients where ranks hold parts of the network: summed over copies, and where several ranks hold the
cut_state: `TrainState` where ranks hold parts of the network
cut_step: the forward and backward passes of one update where ranks hold parts of the network
data_read: which steps of a run read a document, and which documents a step reads: computed from the seed, nothing is
deterministic: kernels that give the same bits every time, for `train.deterministic_reduction`
fp8_widths: which networks' products can be computed in fp8. No torch
gradients: the gradients of one update, summed over its micro-batches, and over the ranks, in fp32
initial_weights: training that goes on from a model that exists: its weights instead of random ones
loss_scale: loss scaling for fp16 (Micikevicius et al
loss_spikes: sees loss spikes: a robust z-score of each step's loss against the losses before it
lr_schedule: the learning rate of each step: a pure function of the recipe
metrics: what a run writes down while it trains: metrics.jsonl (one object a step), events.jsonl, and the share of
micro_batch: A micro-batch on its way through an update, and the figures that come of it
optimizer: adamW over packed parameters, with decay where it belongs
optimizer_kernel: triton: one pass of AdamW over a parameter: gradient scaled, moments and master updated, 16-bit
precision: number formats: where the computation may be short, and where it stays in fp32
rank_state: the state of one rank: of the whole network, or of its part
roll_back: what a run does when its guards give up on where it stands: back to a checkpoint, or an end with a reason
run_checkpoints: A run's checkpoints: saves them while training goes on, takes the newest whole one up again, answers
run_data: the data of a run, held against its fingerprints before a step is made: shards, tokenizer, network
run_guards: what watches a run's steps: non-finite ones, loss spikes, and what was quarantined because of them
step_clock: how long steps take, and what they report, read behind the device's work: the host never waits for the
stop_requests: requests to stop before the end: a signal, or the recipe's time limit
train_config: settings of pre-training
train_state: what one update changes, and the network that computes with it
train_step: one optimizer update
trainer: pre-training of one run folder, on one rank or several: from token shards to checkpoints, resumed wherever
"""
