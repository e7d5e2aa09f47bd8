"""Saving and loading a run's state.

async_save: saves a run's state while training goes on: training stands still for a copy in memory, a thread does the
checkpoint_format: A checkpoint on disk: one folder of safetensors and JSON, valid only with a manifest that names
retention: which checkpoints of a run stay
save_load: moves a run's tensors between host memory and a checkpoint folder
tensor_writer: writes a safetensors file from tensors in host memory without a second copy of them, hashed on the way
"""
