"""Saving and loading a run's state.

async_save: asynchronous checkpoint saving: copies the state to host memory, writes it in a background thread
checkpoint_format: checkpoint folder layout: safetensors, JSON state and a manifest of SHA-256 hashes
retention: policy for which checkpoints to keep and which to delete
save_load: writes tensors to a checkpoint folder and loads them, with shape and completeness checks
tensor_writer: writes a safetensors file without copying the tensors, hashing it while writing
"""
