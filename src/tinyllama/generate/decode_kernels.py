"""Triton kernels of one decoding step: each of B sequences has one new token.

A step must read every weight once, which takes most of its time. These kernels read weights at full memory bandwidth and
compute the rest (norm, rotary embedding, SwiGLU, residual) meanwhile. The residual stream is fp32. With PDL (programmatic
dependent launch, Hopper and later) a kernel starts before the previous one has ended; before `gdc_wait` it may only read
weights, which no kernel writes.

Letters: B batch, D dim, H heads, G key and value heads, R = H / G, K head_dim, F ffn_dim, S slots of the cache.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def matvec(x_ptr, norm_ptr, w_ptr, out_ptr, eps, N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr,
           BLOCK_W: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr, GATED: tl.constexpr,
           PDL: tl.constexpr):  # fmt: skip
    """B = 1: out (N,) = W (N, WIDTH) x, in fp32. NORM: x is normalised first. ADD: out += instead.

    GATED: out = silu(gate x) * (up x); W (2 N, WIDTH) has gate's rows, then up's.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_W)
    inside = columns < WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    where = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    mask = (rows < N)[:, None] & inside[None, :]
    w = tl.load(w_ptr + where, mask=mask, other=0.0)
    if GATED:
        up = tl.load(w_ptr + N * WIDTH + where, mask=mask, other=0.0)
    if NORM:
        scale = tl.load(norm_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        x = x * tl.rsqrt(tl.sum(x * x, axis=0) / WIDTH + eps) * scale  # pyright: ignore[reportPossiblyUnboundVariable]
    result = tl.sum(w.to(tl.float32) * x[None, :], axis=1)
    if GATED:
        up_result = tl.sum(up.to(tl.float32) * x[None, :], axis=1)  # pyright: ignore[reportPossiblyUnboundVariable]
        result = result * tl.sigmoid(result) * up_result
    if ADD:
        result += tl.load(out_ptr + rows, mask=rows < N, other=0.0)
    tl.store(out_ptr + rows, result, mask=rows < N)


@triton.jit
def add_norm(x_ptr, partial_ptr, norm_ptr, out_ptr, eps, B, D: tl.constexpr, BLOCK_D: tl.constexpr,
             SPLIT_K: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """x (B, D) += partial (SPLIT_K, B, D) summed in order; out (B, D) = x normalised."""
    b = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    scale = tl.load(norm_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + b * D + columns, mask=inside, other=0.0)
    for split in tl.static_range(SPLIT_K):
        x += tl.load(partial_ptr + (split * B + b) * D + columns, mask=inside, other=0.0)
    if SPLIT_K > 0:
        tl.store(x_ptr + b * D + columns, x, mask=inside)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / D + eps) * scale
    tl.store(out_ptr + b * D + columns, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def split_matmul(x_ptr, w_ptr, out_ptr, B, N: tl.constexpr, WIDTH: tl.constexpr, SPLIT_WIDTH: tl.constexpr,
                 BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """out (splits, B, N), fp32: x (B, WIDTH) times W (N, WIDTH) transposed; split i sums SPLIT_WIDTH of the columns.

    Few rows of x make few tiles; splits of the sum keep all multiprocessors busy. The reader of `out` adds them in order.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    batch = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    w_row = tl.minimum(rows, N - 1).to(tl.int64)[:, None] * WIDTH
    x_row = tl.minimum(batch, B - 1)[:, None] * WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((BLOCK_N, BLOCK_B), dtype=tl.float32)
    for start in range(split * SPLIT_WIDTH, tl.minimum((split + 1) * SPLIT_WIDTH, WIDTH), BLOCK_W):
        columns = start + tl.arange(0, BLOCK_W)[None, :]
        if WIDTH % BLOCK_W == 0:
            w = tl.load(w_ptr + w_row + columns)
            x = tl.load(x_ptr + x_row + columns)
        else:
            w = tl.load(w_ptr + w_row + columns, mask=columns < WIDTH, other=0.0)
            x = tl.load(x_ptr + x_row + columns, mask=columns < WIDTH, other=0.0)
        total = tl.dot(w, tl.trans(x), total)
    where = (split * B + batch)[None, :].to(tl.int64) * N + rows[:, None]
    tl.store(out_ptr + where, total, mask=(batch < B)[None, :] & (rows < N)[:, None])


@triton.jit
def gated_matmul(x_ptr, w_ptr, out_ptr, B, F: tl.constexpr, WIDTH: tl.constexpr, BLOCK_B: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """out (B, F) = silu(gate x) * (up x) for each row of x (B, WIDTH); W (2 F, WIDTH) has gate's rows, then up's."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    w_row = tl.minimum(rows, F - 1).to(tl.int64)[:, None] * WIDTH
    x_row = tl.minimum(batch, B - 1)[:, None] * WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    gate = tl.zeros((BLOCK_N, BLOCK_B), dtype=tl.float32)
    up = tl.zeros((BLOCK_N, BLOCK_B), dtype=tl.float32)
    for start in range(0, WIDTH, BLOCK_W):
        columns = start + tl.arange(0, BLOCK_W)[None, :]
        if WIDTH % BLOCK_W == 0:
            w_gate = tl.load(w_ptr + w_row + columns)
            w_up = tl.load(w_ptr + F * WIDTH + w_row + columns)
            x = tl.load(x_ptr + x_row + columns)
        else:
            w_gate = tl.load(w_ptr + w_row + columns, mask=columns < WIDTH, other=0.0)
            w_up = tl.load(w_ptr + F * WIDTH + w_row + columns, mask=columns < WIDTH, other=0.0)
            x = tl.load(x_ptr + x_row + columns, mask=columns < WIDTH, other=0.0)
        gate = tl.dot(w_gate, tl.trans(x), gate)
        up = tl.dot(w_up, tl.trans(x), up)
    gated = gate * tl.sigmoid(gate) * up
    where = batch[None, :].to(tl.int64) * F + rows[:, None]
    tl.store(out_ptr + where, gated.to(out_ptr.dtype.element_ty), mask=(batch < B)[None, :] & (rows < F)[:, None])


@triton.jit
def _summed(ptr, where, mask, stride, SPLIT_K: tl.constexpr):
    total = tl.load(ptr + where, mask=mask, other=0.0)
    for split in tl.static_range(1, SPLIT_K):
        total += tl.load(ptr + split * stride + where, mask=mask, other=0.0)
    return total


@triton.jit
def _rotated(ptr, where, mask, stride, cos, sin, HALF: tl.constexpr, SPLIT_K: tl.constexpr):
    first = _summed(ptr, where, mask, stride, SPLIT_K)
    second = _summed(ptr, where + HALF, mask, stride, SPLIT_K)
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def _with_slots(top, total, acc, q1, q2, k_ptr, v_ptr, slots, end, half, whole, HALF: tl.constexpr):
    """The running maximum, sum and weighted values of softmax, updated with those of `slots` that are below `end`."""
    filled = slots < end
    at = slots[None, :] * 2 * HALF + half[:, None]
    keys1 = tl.load(k_ptr + at, mask=filled[None, :], other=0.0)  # (K / 2, slots)
    keys2 = tl.load(k_ptr + at + HALF, mask=filled[None, :], other=0.0)
    values = tl.load(v_ptr + slots[:, None] * 2 * HALF + whole[None, :], mask=filled[:, None], other=0.0)
    scores = tl.where(filled[None, :], tl.dot(q2, keys2, tl.dot(q1, keys1)), float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    weights, shrink = tl.exp2(scores - new_top[:, None]), tl.exp2(top - new_top)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None])
    return new_top, total * shrink + tl.sum(weights, 1), acc


@triton.jit
def attend_step(qkv_ptr, cos_ptr, sin_ptr, k_ptr, v_ptr, positions_ptr, out_ptr, acc_ptr, stats_ptr, finished_ptr,
                scale, B, S, G: tl.constexpr, R: tl.constexpr, HALF: tl.constexpr, SPLIT_K: tl.constexpr,
                BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """One query per head over the filled slots: out (B, H K). Stores the new rotated key and value at their slot.

    qkv (SPLIT_K, B, (H + 2 G) K) are partial sums; cos and sin (S, K / 2); k and v (B, G, S, K) of one layer. A program
    handles one key head and one of SPLITS ranges of its slots; the last one to finish combines the ranges, in order.
    """
    pair = tl.program_id(0)  # b G + g
    b, g, split = pair // G, pair % G, tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    position = tl.load(positions_ptr + b).to(tl.int32)
    half, whole, heads = tl.arange(0, HALF), tl.arange(0, 2 * HALF), tl.arange(0, BLOCK_R)
    cos, sin = tl.load(cos_ptr + position * HALF + half), tl.load(sin_ptr + position * HALF + half)
    row, stride = b * (R + 2) * G * 2 * HALF, B * (R + 2) * G * 2 * HALF
    cache = pair.to(tl.int64) * S * 2 * HALF
    kind = k_ptr.dtype.element_ty

    real = (heads < R)[:, None] & (half < HALF)[None, :]
    q_at = row + (g * R + heads)[:, None] * 2 * HALF + half[None, :]
    q1, q2 = _rotated(qkv_ptr, q_at, real, stride, cos[None, :], sin[None, :], HALF, SPLIT_K)
    q1, q2 = (q1 * scale).to(kind), (q2 * scale).to(kind)  # scale has log2(e) in it: exp2 below
    k_at, v_at = row + (R * G + g) * 2 * HALF + half, row + ((R + 1) * G + g) * 2 * HALF + whole
    k1, k2 = _rotated(qkv_ptr, k_at, half < HALF, stride, cos, sin, HALF, SPLIT_K)
    k1, k2, new_v = k1.to(kind), k2.to(kind), _summed(qkv_ptr, v_at, whole < 2 * HALF, stride, SPLIT_K).to(kind)
    if split == 0:
        tl.store(k_ptr + cache + position * 2 * HALF + half, k1)
        tl.store(k_ptr + cache + position * 2 * HALF + HALF + half, k2)
        tl.store(v_ptr + cache + position * 2 * HALF + whole, new_v)

    # The new token is not read back from the cache; it starts the sums of the first range.
    own = tl.sum(q1.to(tl.float32) * k1.to(tl.float32)[None, :] + q2.to(tl.float32) * k2.to(tl.float32)[None, :], 1)
    top = tl.where(split == 0, own, float("-inf"))  # (BLOCK_R,)
    total = tl.where(split == 0, tl.full((BLOCK_R,), 1.0, tl.float32), 0.0)
    acc = tl.where(split == 0, 1.0, 0.0) * tl.broadcast_to(new_v.to(tl.float32)[None, :], (BLOCK_R, 2 * HALF))
    n_slots = tl.cdiv(tl.cdiv(position, SPLITS), BLOCK_S) * BLOCK_S
    end = tl.minimum((split + 1) * n_slots, position)
    for start in range(split * n_slots, end, BLOCK_S):
        top, total, acc = _with_slots(
            top, total, acc, q1, q2, k_ptr + cache, v_ptr + cache, start + tl.arange(0, BLOCK_S), end, half, whole, HALF
        )
    out_where = (b * G + g) * R * 2 * HALF + heads[:, None] * 2 * HALF + whole[None, :]
    out_mask = (heads < R)[:, None] & (whole < 2 * HALF)[None, :]
    if SPLITS == 1:
        tl.store(out_ptr + out_where, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=out_mask)
    else:
        mine = pair * SPLITS + split
        tl.store(acc_ptr + (mine * BLOCK_R + heads)[:, None] * 2 * HALF + whole[None, :], acc)
        tl.store(stats_ptr + mine * 2 * BLOCK_R + heads, top)
        tl.store(stats_ptr + mine * 2 * BLOCK_R + BLOCK_R + heads, total)
        tl.debug_barrier()  # all threads have stored before one thread counts the program
        if tl.atomic_add(finished_ptr + pair, 1, sem="acq_rel") == SPLITS - 1:
            tl.store(finished_ptr + pair, 0)
            combined = _combined(acc_ptr, stats_ptr, pair * SPLITS, heads, whole, HALF, BLOCK_R, SPLITS)
            tl.store(out_ptr + out_where, combined.to(out_ptr.dtype.element_ty), mask=out_mask)


@triton.jit
def _combined(acc_ptr, stats_ptr, first, heads, whole, HALF: tl.constexpr, BLOCK_R: tl.constexpr, SPLITS: tl.constexpr):
    """Softmax over all ranges from the maximum, sum and weighted values of each, read past the L1 cache."""
    top = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    for split in tl.static_range(SPLITS):
        stats = stats_ptr + (first + split) * 2 * BLOCK_R + heads
        top = tl.maximum(top, tl.load(stats, cache_modifier=".cg"))
    total = tl.zeros((BLOCK_R,), tl.float32)
    acc = tl.zeros((BLOCK_R, 2 * HALF), tl.float32)
    for split in tl.static_range(SPLITS):
        stats = stats_ptr + (first + split) * 2 * BLOCK_R + heads
        share = tl.exp2(tl.load(stats, cache_modifier=".cg") - top)
        total += share * tl.load(stats + BLOCK_R, cache_modifier=".cg")
        where = ((first + split) * BLOCK_R + heads)[:, None] * 2 * HALF + whole[None, :]
        acc += share[:, None] * tl.load(acc_ptr + where, cache_modifier=".cg")
    return acc / total[:, None]
