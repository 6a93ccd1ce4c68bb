"""Kernels in Triton for what lies between the matrix products: norms, activations and the adapters' products.

Everything is computed in float32 and rounded where the model's own modules round. No sum depends on the order in which
programs run. A token without terms gets 0 added, so it is computed as by the bare model.
"""

# Triton gives its decorators no types, and takes no types of arguments.
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

MOST_ROWS = tl.constexpr(32)
"""Up to so many rows of B, of all terms of a token, are read one after the other."""


@triton.jit
def added_to(
    pool,
    slot,
    factors,
    sums,
    b_offset,
    columns,
    ok,
    OUTPUTS: tl.constexpr,
    MODULE: tl.constexpr,
    MODULES: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    Q: tl.constexpr,
    STEP: tl.constexpr,
):
    """Return what the terms of a slot add to the outputs ``columns`` ``[n, m]`` of a module of a site.

    ``sums`` ``[SPLITS, MODULES * TERMS * RANK]`` is the token's A x. Q is a power of 2 from TERMS * RANK on; so many
    rows of B as STEP are in registers at once.
    """
    total = tl.zeros(columns.shape, dtype=tl.float32)
    if SPLITS == 1 and TERMS * RANK <= MOST_ROWS:
        # Row by row nothing has to be exchanged between threads.
        for term in tl.static_range(TERMS):
            entry = tl.load(slot + term)
            factor = tl.load(factors + TERMS + term)
            here = ok & (tl.zeros(columns.shape, tl.int32) + entry >= 0)
            place = pool + entry.to(tl.int64) * ELEMENTS + b_offset
            for rank in tl.static_range(RANK):
                at = (MODULE * TERMS + term) * RANK + rank
                low = tl.load(sums + at, mask=entry >= 0, other=0.0) * factor
                b = tl.load(place + rank * OUTPUTS + columns, mask=here, other=0.0)
                total += b.to(tl.float32) * low
    else:
        split = tl.arange(0, S)
        for first in tl.static_range(0, Q, STEP):
            q = first + tl.arange(0, STEP)
            term = q // RANK
            entry = tl.load(slot + term, mask=term < TERMS, other=-1)
            has = entry >= 0
            factor = tl.load(factors + TERMS + term, mask=has, other=0.0)
            at = split[:, None] * (MODULES * TERMS * RANK) + MODULE * TERMS * RANK + q[None, :]
            parts = tl.load(sums + at, mask=(split < SPLITS)[:, None] & has[None, :], other=0.0)
            low = tl.sum(parts, axis=0) * factor
            place = entry.to(tl.int64) * ELEMENTS + b_offset + (q % RANK) * OUTPUTS
            mask = has[:, None, None] & ok[None, :, :]
            b = tl.load(pool + place[:, None, None] + columns[None, :, :], mask=mask, other=0.0).to(tl.float32)
            total += tl.sum(b * low[:, None, None], axis=0)
    return total


@triton.jit
def add_norm(
    x,
    y,
    source,
    lanes,
    weight,
    summed,
    normed,
    pool,
    slots,
    factors,
    sums,
    b_offset,
    into,
    a_offset,
    epsilon,
    HIDDEN: tl.constexpr,
    H: tl.constexpr,
    HAS_Y: tl.constexpr,
    HAS_SOURCE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    HAS_INTO: tl.constexpr,
    HAS_LANES: tl.constexpr,
    A_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    Q: tl.constexpr,
    STEP: tl.constexpr,
):
    """Program (n, 0) writes sum and norm of a token; the others, ROWS of A each, norm it again and multiply it."""
    number = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = number
    if HAS_SOURCE:
        at = tl.load(source + number).to(tl.int64)
    token = number
    if HAS_Y:
        token = at
    columns = tl.arange(0, H)
    ok = columns < HIDDEN
    slot = slots
    factor = factors
    if HAS_ADDED or HAS_INTO:
        lane = token
        if HAS_LANES:
            lane = tl.load(lanes + token).to(tl.int64)
        slot += lane * 2 * TERMS
        factor += lane * 2 * TERMS
    if HAS_INTO:
        chunks: tl.constexpr = (A_ROWS + ROWS - 1) // ROWS
        chunk = tl.maximum(part - 1, 0)
        term = chunk // chunks
        entry = tl.load(slot + term, mask=part > 0, other=-1)
        if (part > 0) & (entry < 0):
            return
        rows = (chunk % chunks) * ROWS + tl.arange(0, ROWS)
        wanted = (rows < A_ROWS) & (entry >= 0)
        place = entry.to(tl.int64) * ELEMENTS + a_offset + rows[:, None] * HIDDEN + columns[None, :]
        a = tl.load(pool + place, mask=wanted[:, None] & ok[None, :], other=0.0)
    total = tl.load(x + at * HIDDEN + columns, mask=ok, other=0.0).to(tl.float32)
    if HAS_Y:
        total += tl.load(y + at * HIDDEN + columns, mask=ok, other=0.0).to(tl.float32)
    scale = tl.load(weight + columns, mask=ok, other=0.0)
    if HAS_ADDED:
        own = sums + token * (SPLITS * TERMS * RANK)
        more = added_to(
            pool, slot, factor, own, b_offset, columns[None, :], ok[None, :],
            HIDDEN, 0, 1, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
        )  # fmt: skip
        total += tl.reshape(more, (H,))
    rounded = total.to(summed.dtype.element_ty)
    value = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + epsilon)
    scaled = (value * inverse).to(normed.dtype.element_ty).to(tl.float32)
    result = (scaled * scale.to(tl.float32)).to(normed.dtype.element_ty)
    if part == 0:
        tl.store(summed + number * HIDDEN + columns, rounded, mask=ok)
        tl.store(normed + number * HIDDEN + columns, result, mask=ok)
    if HAS_INTO:
        products = tl.sum(a.to(tl.float32) * result.to(tl.float32)[None, :], axis=1)
        where = token * (A_ROWS * TERMS) + (rows // RANK * TERMS + term) * RANK + rows % RANK
        tl.store(into + where, products, mask=wanted)


@triton.jit
def low(
    x,
    blocks,
    pool,
    slots,
    into,
    a_offset,
    INPUTS: tl.constexpr,
    ALONG: tl.constexpr,
    SPLITS: tl.constexpr,
    P: tl.constexpr,
    PD: tl.constexpr,
    STEP: tl.constexpr,
    TOGETHER: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
):
    """Multiply the tokens of a block with ALONG columns of their A."""
    block = tl.program_id(0)
    split = tl.program_id(1)
    lane = tl.load(blocks + block * 3)
    first = tl.load(blocks + block * 3 + 1)
    count = tl.load(blocks + block * 3 + 2)
    p = tl.arange(0, PD)
    entry = tl.load(slots + lane * 2 * TERMS + p // RANK % TERMS, mask=(p < P) & (count > 0), other=-1)
    if tl.max(entry, axis=0) < 0:
        return
    has = entry >= 0
    number = tl.arange(0, TOGETHER)
    token = (first + number).to(tl.int64)
    row = p // (TERMS * RANK) * RANK + p % RANK
    place = entry.to(tl.int64) * ELEMENTS + a_offset + row * INPUTS
    total = tl.zeros((TOGETHER, PD), dtype=tl.float32)
    for start in tl.static_range(0, ALONG, STEP):
        k = split * ALONG + start + tl.arange(0, STEP)
        ok = k < INPUTS
        own = tl.load(x + token[:, None] * INPUTS + k[None, :], mask=(number < count)[:, None] & ok[None, :], other=0.0)
        a = tl.load(pool + place[:, None] + k[None, :], mask=has[:, None] & ok[None, :], other=0.0)
        total = tl.dot(own, tl.trans(a), total, input_precision="ieee")
    where = (token[:, None] * SPLITS + split) * P + p[None, :]
    tl.store(into + where, total, mask=(number < count)[:, None] & has[None, :])


@triton.jit
def activate(
    gate_up,
    act,
    pool,
    slots,
    factors,
    sums,
    b_offset,
    into,
    a_offset,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    HAS_INTO: tl.constexpr,
    PARTS: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    Q: tl.constexpr,
    STEP: tl.constexpr,
):
    """Activate COLUMNS of a row's one token, and multiply them with those columns of its A."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    ok = columns < WIDTH
    slot = slots
    factor = factors
    slot += token * 2 * TERMS
    factor += token * 2 * TERMS
    if HAS_INTO:
        q = tl.arange(0, Q)
        entry = tl.load(slot + q // RANK, mask=q // RANK < TERMS, other=-1)
        has = entry >= 0
        place = entry.to(tl.int64) * ELEMENTS + a_offset + (q % RANK) * WIDTH
        a = tl.load(pool + place[:, None] + columns[None, :], mask=has[:, None] & ok[None, :], other=0.0)
    gate = tl.load(gate_up + token * 2 * WIDTH + columns, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * 2 * WIDTH + WIDTH + columns, mask=ok, other=0.0).to(tl.float32)
    if HAS_ADDED:
        own = sums + token * (SPLITS * 2 * TERMS * RANK)
        more = added_to(
            pool, slot, factor, own, b_offset, columns[None, :], ok[None, :],
            2 * WIDTH, 0, 2, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
        )  # fmt: skip
        gate += tl.reshape(more, (COLUMNS,))
        more = added_to(
            pool, slot, factor, own, b_offset, WIDTH + columns[None, :], ok[None, :],
            2 * WIDTH, 1, 2, SPLITS, S, ELEMENTS, TERMS, RANK, Q, STEP,
        )  # fmt: skip
        up += tl.reshape(more, (COLUMNS,))
    result = (gate / (1.0 + tl.exp(-gate)) * up).to(act.dtype.element_ty)
    tl.store(act + token * WIDTH + columns, result, mask=ok)
    if HAS_INTO:
        products = tl.sum(a.to(tl.float32) * result.to(tl.float32)[None, :], axis=1)
        tl.store(into + (token * PARTS + part) * (TERMS * RANK) + q, products, mask=has)


@triton.jit
def activate_blocks(
    gate_up,
    blocks,
    act,
    pool,
    slots,
    factors,
    sums,
    b_offset,
    into,
    a_offset,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_INTO: tl.constexpr,
    PARTS: tl.constexpr,
    TOGETHER: tl.constexpr,
    ELEMENTS: tl.constexpr,
    TERMS: tl.constexpr,
    RANK: tl.constexpr,
    QD: tl.constexpr,
):
    """Activate COLUMNS of the tokens of a block, AT_ONCE at a time; they read their A and B once.

    A x is rounded to the model's dtype, which the matrix units multiply.
    """
    block = tl.program_id(0)
    part = tl.program_id(1)
    lane = tl.load(blocks + block * 3)
    first = tl.load(blocks + block * 3 + 1)
    count = tl.load(blocks + block * 3 + 2)
    if count == 0:
        return
    dtype: tl.constexpr = act.dtype.element_ty
    number = tl.arange(0, TOGETHER)
    here = number < count
    token = (first + number).to(tl.int64)
    if HAS_ADDED or HAS_INTO:
        q = tl.arange(0, QD)
        term = q // RANK
        entry = tl.load(slots + lane * 2 * TERMS + term, mask=term < TERMS, other=-1)
        has = entry >= 0
        wanted = here[:, None] & has[None, :]
        start = entry.to(tl.int64) * ELEMENTS
    if HAS_ADDED:
        factor = tl.load(factors + lane * 2 * TERMS + TERMS + term, mask=has, other=0.0)
        of_gate = tl.zeros((TOGETHER, QD), dtype=tl.float32)
        of_up = tl.zeros((TOGETHER, QD), dtype=tl.float32)
        own = sums + token[:, None] * (SPLITS * 2 * TERMS * RANK) + q[None, :]
        for split in tl.static_range(SPLITS):
            of_gate += tl.load(own + split * (2 * TERMS * RANK), mask=wanted, other=0.0)
            of_up += tl.load(own + (split * 2 + 1) * (TERMS * RANK), mask=wanted, other=0.0)
        for_gate = (of_gate * factor[None, :]).to(dtype)
        for_up = (of_up * factor[None, :]).to(dtype)
    products = tl.zeros((TOGETHER, QD), dtype=tl.float32)
    for begin in tl.range(0, COLUMNS, AT_ONCE, num_stages=1):
        columns = part * COLUMNS + begin + tl.arange(0, AT_ONCE)
        ok = columns < WIDTH
        both = here[:, None] & ok[None, :]
        at = token[:, None] * 2 * WIDTH + columns[None, :]
        gate = tl.load(gate_up + at, mask=both, other=0.0).to(tl.float32)
        up = tl.load(gate_up + WIDTH + at, mask=both, other=0.0).to(tl.float32)
        if HAS_ADDED:
            mask = has[:, None] & ok[None, :]
            place = (start + b_offset + (q % RANK) * (2 * WIDTH))[:, None] + columns[None, :]
            b = tl.load(pool + place, mask=mask, other=0.0)
            gate = tl.dot(for_gate, b, gate, input_precision="ieee")
            b = tl.load(pool + WIDTH + place, mask=mask, other=0.0)
            up = tl.dot(for_up, b, up, input_precision="ieee")
        result = (gate / (1.0 + tl.exp(-gate)) * up).to(dtype)
        tl.store(act + token[:, None] * WIDTH + columns[None, :], result, mask=both)
        if HAS_INTO:
            mask = has[:, None] & ok[None, :]
            place = (start + a_offset + (q % RANK) * WIDTH)[:, None] + columns[None, :]
            a = tl.load(pool + place, mask=mask, other=0.0)
            products = tl.dot(result, tl.trans(a), products, input_precision="ieee")
    if HAS_INTO:
        where = (token[:, None] * PARTS + part) * (TERMS * RANK) + q[None, :]
        tl.store(into + where, products, mask=wanted)


@triton.jit
def gather(body, index, entry, count, SIZE: tl.constexpr):
    """Write the elements ``index`` of a body to an entry, 0 for -1."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    ok = at < count
    source = tl.load(index + at, mask=ok, other=-1)
    value = tl.load(body + source, mask=source >= 0, other=0.0)
    tl.store(entry + at, value.to(entry.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["tokens"])
def product_of_few(
    x,
    weight,
    bias,
    out,
    tokens,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    ALONG: tl.constexpr,
    STAGES: tl.constexpr,
    FEW: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Multiply FEW tokens at most with ROWS rows of a weight, by the matrix units.

    A token's result does not depend on how many there are: what is missing is zeros.
    """
    number = tl.arange(0, FEW)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, ALONG)
    here = row < OUTPUTS
    there = number < tokens
    place = row.to(tl.int64)[:, None] * INPUTS + k[None, :]
    at = number[None, :] * INPUTS + k[:, None]
    total = tl.zeros((ROWS, FEW), dtype=tl.float32)
    for start in tl.range(0, INPUTS, ALONG, num_stages=STAGES):
        ok = start + k < INPUTS
        w = tl.load(weight + start + place, mask=here[:, None] & ok[None, :], other=0.0)
        own = tl.load(x + start + at, mask=there[None, :] & ok[:, None], other=0.0)
        total = tl.dot(w, own, total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias + row, mask=here, other=0.0).to(tl.float32)[:, None]
    where = number[None, :] * OUTPUTS + row[:, None]
    tl.store(out + where, total.to(out.dtype.element_ty), mask=here[:, None] & there[None, :])
