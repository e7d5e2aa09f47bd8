"""Triton kernels of one decoding step: each of B sequences has one new token.

A step must read every weight once, and nothing else takes long: so these kernels read weights at the memory's full rate
and do the small things (norm, rotation, SwiGLU, residual) in passing. The residual stream is fp32. With PDL
(programmatic dependent launch, Hopper and later) a kernel starts before the one ahead of it has ended: what it may do
before `gdc_wait` is to read weights, which no kernel writes.

Letters: B batch, D dim, H heads, G key and value heads, R = H / G, K head_dim, F ffn_dim, S slots of the cache.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def matvec(x_ptr, norm_ptr, w_ptr, out_ptr, eps, N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr,
           BLOCK_W: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """B = 1: out (N,) = W (N, WIDTH) x, in fp32; NORM: x is normalised first; ADD: added to what out holds."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_W)
    inside = columns < WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    where = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    w = tl.load(w_ptr + where, mask=(rows < N)[:, None] & inside[None, :], other=0.0)
    if NORM:
        scale = tl.load(norm_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        x = x * tl.rsqrt(tl.sum(x * x, axis=0) / WIDTH + eps) * scale  # pyright: ignore[reportPossiblyUnboundVariable]
    result = tl.sum(w.to(tl.float32) * x[None, :], axis=1)
    if ADD:
        result += tl.load(out_ptr + rows, mask=rows < N, other=0.0)
    tl.store(out_ptr + rows, result, mask=rows < N)


@triton.jit
def gated_matvec(x_ptr, norm_ptr, w_ptr, out_ptr, eps, F: tl.constexpr, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr,
                 BLOCK_W: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """B = 1: out (F,) = silu(gate x) * (up x), x normalised first; the rows of gate and up follow each other in W."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_W)
    inside = columns < WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    where = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    mask = (rows < F)[:, None] & inside[None, :]
    gate = tl.load(w_ptr + where, mask=mask, other=0.0)
    up = tl.load(w_ptr + F * WIDTH + where, mask=mask, other=0.0)
    scale = tl.load(norm_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + columns, mask=inside, other=0.0)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / WIDTH + eps) * scale
    gated = tl.sum(gate.to(tl.float32) * x[None, :], axis=1)
    gated = gated * tl.sigmoid(gated) * tl.sum(up.to(tl.float32) * x[None, :], axis=1)
    tl.store(out_ptr + rows, gated, mask=rows < F)


@triton.jit
def add_norm(x_ptr, parts_ptr, norm_ptr, out_ptr, eps, B, D: tl.constexpr, BLOCK_D: tl.constexpr,
             PARTS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """x (B, D) += the sum of parts (PARTS, B, D), in their order; out (B, D) = x normalised."""
    b = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    scale = tl.load(norm_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + b * D + columns, mask=inside, other=0.0)
    for part in tl.static_range(PARTS):
        x += tl.load(parts_ptr + (part * B + b) * D + columns, mask=inside, other=0.0)
    if PARTS > 0:
        tl.store(x_ptr + b * D + columns, x, mask=inside)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / D + eps) * scale
    tl.store(out_ptr + b * D + columns, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def split_matmul(x_ptr, w_ptr, out_ptr, B, N: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
                 BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """out (parts, B, N), fp32: x (B, WIDTH) times W (N, WIDTH) transposed; part i sums columns i PART to (i + 1) PART.

    Few rows of x make few tiles; parts of the sum keep all multiprocessors at work. Who reads `out` adds them in order.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(1)
    batch = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    w_row = tl.minimum(rows, N - 1).to(tl.int64)[:, None] * WIDTH
    x_row = tl.minimum(batch, B - 1)[:, None] * WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((BLOCK_N, BLOCK_B), dtype=tl.float32)
    for start in range(part * PART, tl.minimum((part + 1) * PART, WIDTH), BLOCK_W):
        columns = start + tl.arange(0, BLOCK_W)[None, :]
        if WIDTH % BLOCK_W == 0:
            w = tl.load(w_ptr + w_row + columns)
            x = tl.load(x_ptr + x_row + columns)
        else:
            w = tl.load(w_ptr + w_row + columns, mask=columns < WIDTH, other=0.0)
            x = tl.load(x_ptr + x_row + columns, mask=columns < WIDTH, other=0.0)
        total = tl.dot(w, tl.trans(x), total)
    where = (part * B + batch)[None, :].to(tl.int64) * N + rows[:, None]
    tl.store(out_ptr + where, total, mask=(batch < B)[None, :] & (rows < N)[:, None])


@triton.jit
def gated_matmul(x_ptr, w_ptr, out_ptr, B, F: tl.constexpr, WIDTH: tl.constexpr, BLOCK_B: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """out (B, F) = silu(gate x) * (up x) for each row of x (B, WIDTH); gate's rows and then up's in W (2 F, WIDTH)."""
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
def _summed(ptr, where, mask, stride, PARTS: tl.constexpr):
    total = tl.load(ptr + where, mask=mask, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(ptr + part * stride + where, mask=mask, other=0.0)
    return total


@triton.jit
def _rotated(ptr, where, mask, stride, cos, sin, HALF: tl.constexpr, PARTS: tl.constexpr):
    first = _summed(ptr, where, mask, stride, PARTS)
    second = _summed(ptr, where + HALF, mask, stride, PARTS)
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def _with_slots(top, total, acc, q1, q2, k_ptr, v_ptr, slots, end, half, whole, HALF: tl.constexpr):
    """The running maximum, sum and weighted values of softmax, with these slots' (those before `end`) taken in."""
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
def attend_step(qkv_ptr, cos_ptr, sin_ptr, k_ptr, v_ptr, positions_ptr, out_ptr, acc_ptr, stats_ptr, arrived_ptr,
                scale, B, S, G: tl.constexpr, R: tl.constexpr, HALF: tl.constexpr, PARTS: tl.constexpr,
                BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """One query a head over the filled slots alone: out (B, H K). Stores the new key, rotated, and value at their slot.

    qkv (PARTS, B, (H + 2 G) K) are sums still in parts; cos and sin (S, K / 2); k and v (B, G, S, K) of one layer.
    A program takes one key head and one of SPLITS portions of its slots; the last to end joins the portions, in order.
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
    q1, q2 = _rotated(qkv_ptr, q_at, real, stride, cos[None, :], sin[None, :], HALF, PARTS)
    q1, q2 = (q1 * scale).to(kind), (q2 * scale).to(kind)  # scale has log2(e) in it: exp2 below
    k_at, v_at = row + (R * G + g) * 2 * HALF + half, row + ((R + 1) * G + g) * 2 * HALF + whole
    k1, k2 = _rotated(qkv_ptr, k_at, half < HALF, stride, cos, sin, HALF, PARTS)
    k1, k2, new_v = k1.to(kind), k2.to(kind), _summed(qkv_ptr, v_at, whole < 2 * HALF, stride, PARTS).to(kind)
    if split == 0:
        tl.store(k_ptr + cache + position * 2 * HALF + half, k1)
        tl.store(k_ptr + cache + position * 2 * HALF + HALF + half, k2)
        tl.store(v_ptr + cache + position * 2 * HALF + whole, new_v)

    # The new token is not read back from the cache; it starts the sums of the first portion.
    own = tl.sum(q1.to(tl.float32) * k1.to(tl.float32)[None, :] + q2.to(tl.float32) * k2.to(tl.float32)[None, :], 1)
    top = tl.where(split == 0, own, float("-inf"))  # (BLOCK_R,)
    total = tl.where(split == 0, tl.full((BLOCK_R,), 1.0, tl.float32), 0.0)
    acc = tl.where(split == 0, 1.0, 0.0) * tl.broadcast_to(new_v.to(tl.float32)[None, :], (BLOCK_R, 2 * HALF))
    portion = tl.cdiv(tl.cdiv(position, SPLITS), BLOCK_S) * BLOCK_S
    end = tl.minimum((split + 1) * portion, position)
    for start in range(split * portion, end, BLOCK_S):
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
        tl.debug_barrier()  # all threads' stores are made before one thread says so
        if tl.atomic_add(arrived_ptr + pair, 1, sem="acq_rel") == SPLITS - 1:
            tl.store(arrived_ptr + pair, 0)
            joined = _joined(acc_ptr, stats_ptr, pair * SPLITS, heads, whole, HALF, BLOCK_R, SPLITS)
            tl.store(out_ptr + out_where, joined.to(out_ptr.dtype.element_ty), mask=out_mask)


@triton.jit
def _joined(acc_ptr, stats_ptr, first, heads, whole, HALF: tl.constexpr, BLOCK_R: tl.constexpr, SPLITS: tl.constexpr):
    """Softmax over all portions from each one's maximum, sum and weighted values, read past the L1 cache."""
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
