"""The kernels of `triton`: rows by an online softmax, and what each key receives of finished rows; float32, no atomics.

Logits are in units of log2. Kinds of tokens: 0 padding, 1 prefix, 2 grid. Imported only where triton is installed.
"""


# Triton ships no types, and what stands in a kernel is no Python.

import triton
import triton.language as tl

LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _logits(q, k, rows, columns, scale, tokens, causal: tl.constexpr):
    """scale q k' [query, key]; -inf where a key is not seen, or beyond the end."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (columns < tokens)[None, :] & (rows < tokens)[:, None]
    if causal:
        seen = seen & (columns[None, :] <= rows[:, None])
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _moved(top, new):
    """2^(top - new), 0 where nothing was seen before."""
    return tl.where(top == float("-inf"), 0.0, tl.exp2(top - new))


@triton.jit
def rows_kernel(
    q_at, k_at, v_at, out_at, kind_at, places_at,
    entropy_at, distance_at, prefix_at, peak_at, logit_at, error_at, padding_at, lse_at,
    scale, heads, key_heads, tokens, width,
    q_sample, q_head, q_row, q_column, k_sample, k_head, k_row, k_column,
    v_sample, v_head, v_row, v_column, o_sample, o_head, o_row, o_column,
    causal: tl.constexpr, axes: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program holds M queries of a head and walks over all keys; rows are written in the call's order."""
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    key_head = head * key_heads // heads
    rows = tl.program_id(0) * M + tl.arange(0, M)
    features = tl.arange(0, D)
    row_ok, wide = rows < tokens, features < width
    # 64 bits: a sample of many heads and tokens is longer than 32 bits can count.
    sample64, head64, key_head64 = sample.to(tl.int64), head.to(tl.int64), key_head.to(tl.int64)
    both = row_ok[:, None] & wide[None, :]
    q_at += sample64 * q_sample + head64 * q_head
    q = tl.load(q_at + rows[:, None] * q_row + features[None, :] * q_column, both, 0.0)
    k_at += sample64 * k_sample + key_head64 * k_head
    v_at += sample64 * v_sample + key_head64 * v_head
    out_at += sample64 * o_sample + head64 * o_head

    top_grid = tl.full((M,), float("-inf"), tl.float32)
    top_prefix = tl.full((M,), float("-inf"), tl.float32)
    top_all = tl.full((M,), float("-inf"), tl.float32)
    mass_grid = tl.zeros((M,), tl.float32)
    mass_prefix = tl.zeros((M,), tl.float32)
    mass_all = tl.zeros((M,), tl.float32)
    moment = tl.zeros((M,), tl.float32)
    apart_sum = tl.zeros((M,), tl.float32)
    size = tl.zeros((M,), tl.float32)
    ours = tl.zeros((M, D), tl.float32)

    for start in range(0, tokens, N):
        columns = start + tl.arange(0, N)
        key_ok = columns < tokens
        at_keys = key_ok[:, None] & wide[None, :]
        k = tl.load(k_at + columns[:, None] * k_row + features[None, :] * k_column, at_keys, 0.0)
        v = tl.load(v_at + columns[:, None] * v_row + features[None, :] * v_column, at_keys, 0.0)
        kind = tl.load(kind_at + columns, key_ok, 0)
        s = _logits(q, k, rows, columns=columns, scale=scale, tokens=tokens, causal=causal)

        # The grid: sum of w, of w times its own exponent moved to the new maximum, and of w times a distance.
        on_grid = tl.where((kind == 2)[None, :], s, float("-inf"))
        new = tl.maximum(top_grid, tl.max(on_grid, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        moved = _moved(top_grid, base)
        exponent = tl.where(on_grid == float("-inf"), 0.0, on_grid - base[:, None])
        w = tl.where(on_grid == float("-inf"), 0.0, tl.exp2(exponent))
        step = tl.where(top_grid == float("-inf"), 0.0, top_grid - base)
        moment = moved * (moment + step * mass_grid) + tl.sum(w * exponent, 1)
        mass_grid = moved * mass_grid + tl.sum(w, 1)
        square = tl.zeros((M, N), tl.float32)
        for axis in tl.static_range(axes):
            here = tl.load(places_at + axis * tokens + rows, row_ok, 0.0)
            there = tl.load(places_at + axis * tokens + columns, key_ok, 0.0)
            along = here[:, None] - there[None, :]
            square += along * along
        apart_sum = moved * apart_sum + tl.sum(w * tl.sqrt(square), 1)
        top_grid = new

        of_prefix = tl.where((kind == 1)[None, :], s, float("-inf"))
        new = tl.maximum(top_prefix, tl.max(of_prefix, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        mass_prefix = _moved(top_prefix, base) * mass_prefix + tl.sum(tl.exp2(of_prefix - base[:, None]), 1)
        top_prefix = new

        new = tl.maximum(top_all, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        moved = _moved(top_all, base)
        w = tl.exp2(s - base[:, None])
        mass_all = moved * mass_all + tl.sum(w, 1)
        long = v.to(tl.float32)
        size = moved * size + tl.sum(w * tl.sqrt(tl.sum(long * long, 1))[None, :], 1)
        # The output is only compared with one of this type, so tensor cores may multiply in it.
        ours = moved[:, None] * ours + tl.dot(w.to(v.dtype), v, input_precision="ieee")
        top_all = new

    seen = mass_grid > 0
    safe = tl.where(seen, mass_grid, 1.0)
    nan = float("nan")
    to = (tl.program_id(1).to(tl.int64)) * tokens + rows
    tl.store(entropy_at + to, tl.where(seen, (tl.log2(safe) - moment / safe) * LOG_2, nan), row_ok)
    tl.store(distance_at + to, tl.where(seen, apart_sum / safe, nan), row_ok)
    tl.store(peak_at + to, tl.where(seen, 1 / safe, nan), row_ok)
    tl.store(logit_at + to, top_grid * LOG_2, row_ok)
    top = tl.maximum(top_grid, top_prefix)
    base = tl.where(top == float("-inf"), 0.0, top)
    of_grid, of_prefix = mass_grid * _moved(top_grid, base), mass_prefix * _moved(top_prefix, base)
    own = of_grid + of_prefix
    any_own = own > 0
    own_safe = tl.where(any_own, own, 1.0)
    tl.store(prefix_at + to, tl.where(any_own, of_prefix / own_safe, nan), row_ok)
    tl.store(lse_at + to, tl.where(any_own, base + tl.log2(own_safe), float("inf")), row_ok)
    all_base = tl.where(top_all == float("-inf"), 0.0, top_all)
    # What is NaN must not look like a row that sees nothing.
    blind = mass_all == 0
    all_safe = tl.where(blind, 1.0, mass_all)
    tl.store(padding_at + to, tl.where(blind, 0.0, 1 - own * tl.exp2(base - all_base) / all_safe), row_ok)
    theirs = tl.load(out_at + rows[:, None] * o_row + features[None, :] * o_column, both, 0.0).to(tl.float32)
    off = ours - theirs * mass_all[:, None]
    off = tl.sqrt(tl.sum(off * off, 1))
    error = tl.where(blind, 0.0, tl.where(off == 0, off, off / tl.where(size == 0, 1.0, size)))
    tl.store(error_at + to, error, row_ok)


@triton.jit
def received_kernel(
    q_at, k_at, kind_at, lse_at, received_at, scale, heads, key_heads, tokens, width,
    q_sample, q_head, q_row, q_column, k_sample, k_head, k_row, k_column,
    causal: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program holds N keys of a head and walks over all queries: what the grid queries give to each."""
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    key_head = head * key_heads // heads
    columns = tl.program_id(0) * N + tl.arange(0, N)
    features = tl.arange(0, D)
    key_ok, wide = columns < tokens, features < width
    q_at += sample.to(tl.int64) * q_sample + head.to(tl.int64) * q_head
    k_at += sample.to(tl.int64) * k_sample + key_head.to(tl.int64) * k_head
    k = tl.load(k_at + columns[:, None] * k_row + features[None, :] * k_column, key_ok[:, None] & wide[None, :], 0.0)
    base = (tl.program_id(1).to(tl.int64)) * tokens
    total = tl.zeros((N,), tl.float32)
    for start in range(0, tokens, M):
        rows = start + tl.arange(0, M)
        row_ok = rows < tokens
        q = tl.load(q_at + rows[:, None] * q_row + features[None, :] * q_column, row_ok[:, None] & wide[None, :], 0.0)
        s = _logits(q, k, rows, columns=columns, scale=scale, tokens=tokens, causal=causal)
        lse = tl.load(lse_at + base + rows, row_ok, float("inf"))
        counts = (tl.load(kind_at + rows, row_ok, 0) == 2)[:, None] & (lse < float("inf"))[:, None]
        total += tl.sum(tl.where(counts, tl.exp2(s - tl.where(lse < float("inf"), lse, 0.0)[:, None]), 0.0), 0)
    tl.store(received_at + base + columns, total, key_ok)
