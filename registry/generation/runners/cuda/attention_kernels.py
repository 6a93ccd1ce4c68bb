"""Kernels in Triton for attention: with one token of every row over its keys and values, and over whole prompts.

Queries and keys are rotated in float32. Heads that share their keys are computed by one program where a row has one
token; long rows are cut into chunks that ``combine`` puts together.
"""

# Triton gives its decorators no types, and takes no types of arguments.
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from registry.generation.runners.cuda.kernels import added_to

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def heads_of(
    qkv,
    norm,
    cosine,
    sine,
    epsilon,
    pool,
    slot,
    factors,
    sums,
    b_offset,
    first,
    COUNT: tl.constexpr,
    N: tl.constexpr,
    W: tl.constexpr,
    WP: tl.constexpr,
    ROTATED: tl.constexpr,
    HAS_NORM: tl.constexpr,
    MODULE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    Q: tl.constexpr,
    STEP: tl.constexpr,
):
    """Return COUNT heads ``[N, WP]`` of a token from its column ``first`` on, with what is added, normed, rotated.

    ``cosine`` and ``sine`` are those of its position.
    """
    n = tl.arange(0, N)[:, None]
    c = tl.arange(0, WP)[None, :]
    ok = (n < COUNT) & (c < W)
    at = first + n * W + c
    x = tl.load(qkv + at, mask=ok, other=0.0)
    dtype: tl.constexpr = qkv.dtype.element_ty
    value = x.to(tl.float32)
    if HAS_ADDED:
        value += added_to(
            pool, slot, factors, sums, b_offset, at, ok,
            OUTPUTS, MODULE, 3, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
        )  # fmt: skip
    if ROTATED:
        half: tl.constexpr = W // 2
        across = tl.where(c < half, c + half, c - half)
        other = tl.load(qkv + first + n * W + across, mask=ok, other=0.0).to(tl.float32)
        if HAS_ADDED:
            other += added_to(
                pool, slot, factors, sums, b_offset, first + n * W + across, ok,
                OUTPUTS, MODULE, 3, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
            )  # fmt: skip
        if HAS_NORM:
            inverse = tl.rsqrt(tl.sum(value * value, axis=1) / W + epsilon)[:, None]
            own = tl.load(norm + c, mask=c < W, other=0.0).to(tl.float32)
            opposite = tl.load(norm + across, mask=c < W, other=0.0).to(tl.float32)
            value = ((value * inverse).to(dtype).to(tl.float32) * own).to(dtype).to(tl.float32)
            other = ((other * inverse).to(dtype).to(tl.float32) * opposite).to(dtype).to(tl.float32)
        angle = tl.where(c < half, c, c - half)
        by_cosine = tl.load(cosine + angle, mask=c < W, other=0.0)
        by_sine = tl.load(sine + angle, mask=c < W, other=0.0)
        value = value * by_cosine + tl.where(c < half, -other, other) * by_sine
    return value.to(dtype)


@triton.jit
def attend(
    qkv,
    positions,
    rows,
    cosine,
    sine,
    query_norm,
    key_norm,
    epsilon,
    keys,
    values,
    attended,
    partial,
    extremes,
    pool,
    slots,
    factors,
    sums,
    b_offset,
    scale,
    CONTEXT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    G: tl.constexpr,
    W: tl.constexpr,
    WP: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    Q: tl.constexpr,
    STEP: tl.constexpr,
):
    """Attend from the queries of one key head to CHUNK keys; the token's own key and value are kept on the way."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    chunk = tl.program_id(2)
    position = tl.load(positions + token)
    n = tl.arange(0, G)
    c = tl.arange(0, WP)
    begin = chunk * CHUNK
    if CHUNKS > 1:  # noqa: SIM102 - what is known when it is compiled stands alone
        if begin > position:
            queries = head * GROUP + n
            at = (token * QUERIES + queries) * CHUNKS + chunk
            tl.store(extremes + at * 2, tl.full((G,), LOWEST, tl.float32), mask=n < GROUP)
            tl.store(extremes + at * 2 + 1, tl.zeros((G,), tl.float32), mask=n < GROUP)
            return
    row = tl.load(rows + token).to(tl.int64)
    outs: tl.constexpr = (QUERIES + 2 * KEYS) * W
    own = qkv + token * outs
    of_keys = keys + (row * KEYS + head) * CONTEXT * W
    of_values = values + (row * KEYS + head) * CONTEXT * W
    slot = slots
    factor = factors
    low = sums
    if HAS_ADDED:
        slot += token * 2 * TERMS
        factor += token * 2 * TERMS
        low += token * (SPLITS * 3 * TERMS * RANK)
    turn = position.to(tl.int64) * (W // 2)
    q = heads_of(
        own, query_norm, cosine + turn, sine + turn, epsilon, pool, slot, factor, low, b_offset, head * GROUP * W,
        GROUP, G, W, WP, True, HAS_NORM, 0, HAS_ADDED, outs, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
    )  # fmt: skip
    highest = tl.full((G,), LOWEST, tl.float32)
    weights = tl.zeros((G,), tl.float32)
    total = tl.zeros((G, WP), tl.float32)
    if position < begin + CHUNK:
        k = heads_of(
            own, key_norm, cosine + turn, sine + turn, epsilon, pool, slot, factor, low, b_offset,
            (QUERIES + head) * W,
            1, 1, W, WP, True, HAS_NORM, 1, HAS_ADDED, outs, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
        )  # fmt: skip
        v = heads_of(
            own, key_norm, cosine + turn, sine + turn, epsilon, pool, slot, factor, low, b_offset,
            (QUERIES + KEYS + head) * W,
            1, 1, W, WP, False, False, 2, HAS_ADDED, outs, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
        )  # fmt: skip
        at = position.to(tl.int64) * W + c[None, :]
        tl.store(of_keys + at, k, mask=(c < W)[None, :])
        tl.store(of_values + at, v, mask=(c < W)[None, :])
        highest = tl.sum(q.to(tl.float32) * k.to(tl.float32), axis=1) * (scale * LOG2E)
        weights += 1.0
        total += v.to(tl.float32)
    end = tl.minimum(begin + CHUNK, position)
    for start in range(begin, end, BLOCK):
        m = start + tl.arange(0, BLOCK)
        mask = (m < end)[:, None] & (c < W)[None, :]
        k = tl.load(of_keys + m[:, None] * W + c[None, :], mask=mask, other=0.0)
        v = tl.load(of_values + m[:, None] * W + c[None, :], mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        scores = tl.where((m < end)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp2(highest - higher)
        shares = tl.exp2(scores - higher[:, None])
        weights = weights * shrink + tl.sum(shares, axis=1)
        total = tl.dot(shares.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
        highest = higher
    queries = head * GROUP + n
    if CHUNKS == 1:
        at = (token * QUERIES + queries)[:, None] * W + c[None, :]
        result = total / weights[:, None]
        tl.store(attended + at, result.to(attended.dtype.element_ty), mask=(n < GROUP)[:, None] & (c < W)[None, :])
    else:
        at = (token * QUERIES + queries) * CHUNKS + chunk
        tl.store(extremes + at * 2, highest, mask=n < GROUP)
        tl.store(extremes + at * 2 + 1, weights, mask=n < GROUP)
        tl.store(partial + at[:, None] * W + c[None, :], total, mask=(n < GROUP)[:, None] & (c < W)[None, :])


@triton.jit
def combine(
    partial,
    extremes,
    attended,
    CHUNKS: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
    WP: tl.constexpr,
):
    """Put the chunks of one head of one token together, in their order, so that empty ones behind change nothing."""
    at = tl.program_id(0).to(tl.int64) * CHUNKS
    chunk = tl.arange(0, C)
    c = tl.arange(0, WP)
    highest = tl.max(tl.load(extremes + (at + chunk) * 2, mask=chunk < CHUNKS, other=LOWEST), axis=0)
    total = tl.zeros((WP,), tl.float32)
    weights = 0.0
    for own in tl.static_range(CHUNKS):
        weight = tl.load(extremes + (at + own) * 2 + 1)
        shrink = tl.where(weight > 0.0, tl.exp2(tl.load(extremes + (at + own) * 2) - highest), 0.0)
        parts = tl.load(partial + (at + own) * W + c, mask=c < W, other=0.0)
        total += tl.where(weight > 0.0, parts * shrink, 0.0)  # what is not there is no number
        weights += weight * shrink
    result = total / weights
    tl.store(attended + tl.program_id(0).to(tl.int64) * W + c, result.to(attended.dtype.element_ty), mask=c < W)


@triton.jit
def rotate(
    qkv,
    positions,
    rows,
    cosine,
    sine,
    query_norm,
    key_norm,
    epsilon,
    keys,
    values,
    rotated,
    lanes,
    pool,
    slots,
    factors,
    sums,
    b_offset,
    CONTEXT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    G: tl.constexpr,
    W: tl.constexpr,
    WP: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    Q: tl.constexpr,
    STEP: tl.constexpr,
):
    """Rotate a key head of a token and the queries that share it, and keep its key and value."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    position = tl.load(positions + token).to(tl.int64)
    row = tl.load(rows + token).to(tl.int64)
    n = tl.arange(0, G)[:, None]
    c = tl.arange(0, WP)[None, :]
    outs: tl.constexpr = (QUERIES + 2 * KEYS) * W
    own = qkv + token * outs
    slot = slots
    factor = factors
    low = sums
    if HAS_ADDED:
        lane = tl.load(lanes + token)
        slot += lane * 2 * TERMS
        factor += lane * 2 * TERMS
        low += token * (SPLITS * 3 * TERMS * RANK)
    turn = position * (W // 2)
    q = heads_of(
        own, query_norm, cosine + turn, sine + turn, epsilon, pool, slot, factor, low, b_offset, head * GROUP * W,
        GROUP, G, W, WP, True, HAS_NORM, 0, HAS_ADDED, outs, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
    )  # fmt: skip
    tl.store(rotated + token * outs + (head * GROUP + n) * W + c, q, mask=(n < GROUP) & (c < W))
    k = heads_of(
        own, key_norm, cosine + turn, sine + turn, epsilon, pool, slot, factor, low, b_offset, (QUERIES + head) * W,
        1, 1, W, WP, True, HAS_NORM, 1, HAS_ADDED, outs, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
    )  # fmt: skip
    v = heads_of(
        own, key_norm, cosine + turn, sine + turn, epsilon, pool, slot, factor, low, b_offset,
        (QUERIES + KEYS + head) * W,
        1, 1, W, WP, False, False, 2, HAS_ADDED, outs, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
    )  # fmt: skip
    at = ((row * KEYS + head) * CONTEXT + position) * W + c
    tl.store(keys + at, k, mask=c < W)
    tl.store(values + at, v, mask=c < W)
    tl.store(rotated + token * outs + (QUERIES + head) * W + c, k, mask=c < W)
    tl.store(rotated + token * outs + (QUERIES + KEYS + head) * W + c, v, mask=c < W)


@triton.jit
def attend_prompts(
    rotated,
    blocks,
    starts,
    attended,
    scale,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    W: tl.constexpr,
    WP: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Attend from the tokens of a block with one head.

    The keys are gone through from the prompt's first on, so what else is in a pass changes nothing.
    """
    outs: tl.constexpr = (QUERIES + 2 * KEYS) * W
    group: tl.constexpr = QUERIES // KEYS
    block = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(blocks + block * 3 + 1)
    count = tl.load(blocks + block * 3 + 2)
    if count == 0:
        return
    m = first + tl.arange(0, TOGETHER)
    c = tl.arange(0, WP)
    mine = (m < first + count)[:, None] & (c < W)[None, :]
    q = tl.load(rotated + m.to(tl.int64)[:, None] * outs + head * W + c[None, :], mask=mine, other=0.0)
    highest = tl.full((TOGETHER,), LOWEST, tl.float32)
    weights = tl.zeros((TOGETHER,), tl.float32)
    total = tl.zeros((TOGETHER, WP), tl.float32)
    end = first + count
    of_keys = rotated + (QUERIES + head // group) * W
    of_values = rotated + (QUERIES + KEYS + head // group) * W
    for start in range(tl.load(starts + first), end, BLOCK):
        n = start + tl.arange(0, BLOCK)
        mask = (n < end)[:, None] & (c < W)[None, :]
        place = n.to(tl.int64)[:, None] * outs + c[None, :]
        k = tl.load(of_keys + place, mask=mask, other=0.0)
        v = tl.load(of_values + place, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        scores = tl.where(n[None, :] <= m[:, None], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp2(highest - higher)
        shares = tl.exp2(scores - higher[:, None])
        weights = weights * shrink + tl.sum(shares, axis=1)
        total = tl.dot(shares.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
        highest = higher
    result = total / weights[:, None]
    at = m.to(tl.int64)[:, None] * (QUERIES * W) + head * W + c[None, :]
    tl.store(attended + at, result.to(attended.dtype.element_ty), mask=mine)
