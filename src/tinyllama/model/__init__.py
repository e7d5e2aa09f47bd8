"""The network; imports nothing else of the project.

attention: causal attention with grouped keys and values: PyTorch's fused kernel, and the obvious reference that
dropout: dropout whose masks are a pure function of where they are applied, not of what was drawn before
llama: the network: Llama 2 (Touvron et al
llama_config: shapes of the network: presets, and the arithmetic of parameters
loss: next-token loss as (sum, count), so that an update can divide by the count of its whole step
loss_gradient: next-token loss together with its gradients, in one pass over the logits
loss_kernel: triton: cross entropy of a row of logits, and its gradient in the row's place
norm_kernel: triton: a residual addition and the RMSNorm after it, forward and backward, each in one pass over memory
packed_llama: the network as training computes it: few and large products, a short residual stream, fp32 where it is
packed_weights: matrices that read the same vector, one under another, so that one product does the work of several
partition: which part of the network a process holds: all of it, or some layers, cut across or not
rotary: rotary position embedding (Su et al
swiglu_kernel: triton: SwiGLU's inside, silu(gate) * up, and its gradient, each in one pass at the speed of memory
"""
