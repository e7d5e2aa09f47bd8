"""Decoding: KV cache, sampling, kernels, streaming.

decode: text out of the network: prompts in, what follows them out, streamed where one wants it
decode_kernels: triton kernels of one decoding step: each of B sequences has one new token
decoder: new tokens for several prompts at once: prompts are read in one pass, then each step makes one token for each
fused_step: one decoding step of the network in few kernels, for a GPU and 16-bit weights: fused q k v, gate and up
generate_config: settings of text generation
kv_cache: keys and values of the tokens seen so far, in buffers of fixed size
sampling: which token comes next
text_stream: new tokens as text while they come: whole characters only, and nothing of a stop string
"""
