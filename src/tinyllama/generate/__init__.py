"""Text from a model, and the probability of a text: KV cache, sampling, kernels, streaming, scoring.

decode: text generation from prompts, with optional streaming
decode_kernels: Triton kernels for a decoding step of one new token per sequence
decoder: batched decoding: one prefill pass, then one token per sequence and step, as a CUDA graph on GPUs
fused_step: one decoding step with fused Triton kernels, for GPUs and 16-bit weights
generate_config: configuration of text generation
kv_cache: KV cache in fixed-size buffers
language_model: the model that the Python API returns
sampling: next-token sampling: repetition penalty, temperature, top-k, top-p, min-p
text_score: log-probability of each token of a text
text_stream: streams decoded text in whole characters and stops at stop strings
"""
