"""The network; imports nothing else of the project.

attention: causal grouped-query attention with PyTorch's fused kernels, and a reference implementation
dropout: counter-based dropout: masks depend only on seed, step, sample, layer and position
llama: Llama 2 network: RMSNorm, RoPE, SwiGLU, grouped-query attention
llama_config: network configuration, presets, parameter and FLOP counts
loss: next-token cross-entropy as a sum and a token count
loss_gradient: fused next-token loss and gradients in one chunked pass over the logits
loss_kernel: Triton kernel for cross-entropy that overwrites the logits with their gradient
norm_kernel: Triton kernels for a fused residual addition and RMSNorm, forward and backward
packed_llama: Llama for training: packed q/k/v and gate/up projections, mixed precision
partition: the layers and tensor slices that one process holds, and the interface of their collectives
rotary: rotary position embedding, with optional frequency scaling
swiglu_kernel: Triton kernels for SwiGLU's activation, silu(gate) * up, forward and backward
"""
