"""The kernels of `triton`: rows by an online softmax, and what each key receives of finished rows; float32, no atomics.

Logits are in units of log2. Kinds of tokens: 0 padding, 1 prefix, 2 grid. Imported only where triton is installed.
"""


# Triton ships no types, and type checkers do not know the language of kernels.

import triton
import triton.language as tl

LOG_2 = tl.constexpr(0.6931471805599453)
TILES = {
    2: {16: (64, 64), 32: (64, 64), 64: (64, 64), 128: (64, 64), 256: (32, 32)},
    4: {16: (64, 32), 32: (64, 32), 64: (64, 32), 128: (32, 32), 256: (16, 16)},
}
"""By bytes of a number and width: queries and keys that a program holds at once. No card of compute capability 8.0 or
more then spills more than 1.1 KB a thread or lacks shared memory (`nox -s kernels` compiles them all)."""
OPTIONS = {"num_warps": 8, "num_stages": 2}
PRECISION = "tf32x3"
"""Of products on a card: three of tensor cores are as exact as one in float32, which has none, to about 1e-6."""


@triton.jit
def _logits(q, k, rows, columns, scale, tokens, causal: tl.constexpr, precision: tl.constexpr):
    """scale q k' [query, key]; -inf where a key is not seen, or beyond the end."""
    s = tl.dot(q, tl.trans(k), input_precision=precision) * scale
    seen = (columns < tokens)[None, :] & (rows < tokens)[:, None]
    if causal:
        seen = seen & (columns[None, :] <= rows[:, None])
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _moved(top, new):
    """2^(top - new), 0 where nothing was seen before."""
    return tl.where(top == float("-inf"), 0.0, tl.exp2(top - new))


@triton.jit
def _base(top):
    """A maximum of logits to subtract, 0 where nothing was seen."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def _tile(at, rows, features, of_row, of_feature, tokens, width):
    """Vectors [row, feature] of some tokens of a head, 0 beyond the end.

    Offsets are of 64 bits: where the sequence comes first, a row of many samples and heads lies far from the next.
    """
    inside = (rows < tokens)[:, None] & (features < width)[None, :]
    return tl.load(at + rows.to(tl.int64)[:, None] * of_row + features[None, :] * of_feature, inside, 0.0)


@triton.jit
def _head_of(at, heads, of_heads, of_sample, of_head):
    """Beginning of the tokens of this program's head; `of_heads` is the number of heads that the tensor has."""
    sample, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    return at + sample.to(tl.int64) * of_sample + (head * of_heads // heads).to(tl.int64) * of_head


@triton.jit
def rows_kernel(
    q_at, k_at, kind_at, places_at, entropy_at, distance_at, prefix_at, peak_at, logit_at, padding_at, lse_at,
    scale, heads, key_heads, tokens, width,
    q_sample, q_head, q_row, q_column, k_sample, k_head, k_row, k_column,
    causal: tl.constexpr, axes: tl.constexpr, precision: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program holds M queries of a head and walks over all keys; rows are written in the call's order."""
    rows, features = tl.program_id(1) * M + tl.arange(0, M), tl.arange(0, D)
    row_ok = rows < tokens
    q_at = _head_of(q_at, heads, heads, q_sample, q_head)
    k_at = _head_of(k_at, heads, key_heads, k_sample, k_head)
    q = _tile(q_at, rows, features, q_row, q_column, tokens=tokens, width=width)

    top_grid = tl.full((M,), float("-inf"), tl.float32)
    top_prefix = tl.full((M,), float("-inf"), tl.float32)
    top_padding = tl.full((M,), float("-inf"), tl.float32)
    mass_grid = tl.zeros((M,), tl.float32)
    mass_prefix = tl.zeros((M,), tl.float32)
    mass_padding = tl.zeros((M,), tl.float32)
    moment = tl.zeros((M,), tl.float32)
    apart_sum = tl.zeros((M,), tl.float32)

    for start in range(0, tokens, N):
        columns = start + tl.arange(0, N)
        key_ok = columns < tokens
        k = _tile(k_at, columns, features, k_row, k_column, tokens=tokens, width=width)
        kind = tl.load(kind_at + columns, key_ok, 0)
        s = _logits(q, k, rows, columns, scale=scale, tokens=tokens, causal=causal, precision=precision)

        # The grid: sum of w, of w times its own exponent moved to the new maximum, and of w times a distance.
        on_grid = tl.where((kind == 2)[None, :], s, float("-inf"))
        new = tl.maximum(top_grid, tl.max(on_grid, 1))
        base = _base(new)
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
        base = _base(new)
        mass_prefix = _moved(top_prefix, base) * mass_prefix + tl.sum(tl.exp2(of_prefix - base[:, None]), 1)
        top_prefix = new

        of_padding = tl.where((kind == 0)[None, :], s, float("-inf"))
        new = tl.maximum(top_padding, tl.max(of_padding, 1))
        base = _base(new)
        mass_padding = _moved(top_padding, base) * mass_padding + tl.sum(tl.exp2(of_padding - base[:, None]), 1)
        top_padding = new

    seen = mass_grid > 0
    safe = tl.where(seen, mass_grid, 1.0)
    nan = float("nan")
    to = tl.program_id(0).to(tl.int64) * tokens + rows
    tl.store(entropy_at + to, tl.where(seen, (tl.log2(safe) - moment / safe) * LOG_2, nan), row_ok)
    tl.store(distance_at + to, tl.where(seen, apart_sum / safe, nan), row_ok)
    tl.store(peak_at + to, tl.where(seen, 1 / safe, nan), row_ok)
    tl.store(logit_at + to, top_grid * LOG_2, row_ok)
    top = tl.maximum(top_grid, top_prefix)
    base = _base(top)
    of_grid, of_prefix = mass_grid * _moved(top_grid, base), mass_prefix * _moved(top_prefix, base)
    own = of_grid + of_prefix
    any_own = own > 0
    own_safe = tl.where(any_own, own, 1.0)
    tl.store(prefix_at + to, tl.where(any_own, of_prefix / own_safe, nan), row_ok)
    tl.store(lse_at + to, tl.where(any_own, base + tl.log2(own_safe), float("inf")), row_ok)
    # Padding may lie far above what is the tap's own, or far below.
    base_all = _base(tl.maximum(top, top_padding))
    of_padding = mass_padding * _moved(top_padding, base_all)
    mass = own * _moved(top, base_all) + of_padding
    # What is NaN must not look like a row that sees nothing.
    tl.store(padding_at + to, tl.where(mass == 0, 0.0, of_padding / mass), row_ok)


@triton.jit
def error_kernel(
    q_at, k_at, v_at, out_at, error_at, scale, heads, key_heads, tokens, width,
    q_sample, q_head, q_row, q_column, k_sample, k_head, k_row, k_column,
    v_sample, v_head, v_row, v_column, o_sample, o_head, o_row, o_column,
    causal: tl.constexpr, precision: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program holds M queries of a head, computes their output and compares it with the model's."""
    rows, features = tl.program_id(1) * M + tl.arange(0, M), tl.arange(0, D)
    q_at = _head_of(q_at, heads, heads, q_sample, q_head)
    k_at = _head_of(k_at, heads, key_heads, k_sample, k_head)
    v_at = _head_of(v_at, heads, key_heads, v_sample, v_head)
    out_at = _head_of(out_at, heads, heads, o_sample, o_head)
    q = _tile(q_at, rows, features, q_row, q_column, tokens=tokens, width=width)
    top = tl.full((M,), float("-inf"), tl.float32)
    mass = tl.zeros((M,), tl.float32)
    size = tl.zeros((M,), tl.float32)
    ours = tl.zeros((M, D), tl.float32)
    for start in range(0, tokens, N):
        columns = start + tl.arange(0, N)
        k = _tile(k_at, columns, features, k_row, k_column, tokens=tokens, width=width)
        s = _logits(q, k, rows, columns, scale=scale, tokens=tokens, causal=causal, precision=precision)
        new = tl.maximum(top, tl.max(s, 1))
        base = _base(new)
        moved = _moved(top, base)
        w = tl.exp2(s - base[:, None])
        mass = moved * mass + tl.sum(w, 1)
        v = _tile(v_at, columns, features, v_row, v_column, tokens=tokens, width=width)
        long = v.to(tl.float32)
        size = moved * size + tl.sum(w * tl.sqrt(tl.sum(long * long, 1))[None, :], 1)
        # The output is only compared with one of this type, so tensor cores may multiply in it.
        ours = moved[:, None] * ours + tl.dot(w.to(v.dtype), v, input_precision=precision)
        top = new
    theirs = _tile(out_at, rows, features, o_row, o_column, tokens=tokens, width=width).to(tl.float32)
    off = ours - theirs * mass[:, None]
    off = tl.sqrt(tl.sum(off * off, 1))
    # What is NaN is neither 0 nor above it, and must not look like a row that sees nothing.
    error = tl.where(mass == 0, 0.0, tl.where(off == 0, off, off / tl.where(size == 0, 1.0, size)))
    tl.store(error_at + tl.program_id(0).to(tl.int64) * tokens + rows, error, rows < tokens)


@triton.jit
def received_kernel(
    q_at, k_at, kind_at, lse_at, received_at, scale, heads, key_heads, tokens, width,
    q_sample, q_head, q_row, q_column, k_sample, k_head, k_row, k_column,
    causal: tl.constexpr, precision: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program holds N keys of a head and walks over all queries: what the grid queries give to each."""
    columns, features = tl.program_id(1) * N + tl.arange(0, N), tl.arange(0, D)
    q_at = _head_of(q_at, heads, heads, q_sample, q_head)
    k_at = _head_of(k_at, heads, key_heads, k_sample, k_head)
    k = _tile(k_at, columns, features, k_row, k_column, tokens=tokens, width=width)
    of_head = tl.program_id(0).to(tl.int64) * tokens
    total = tl.zeros((N,), tl.float32)
    for start in range(0, tokens, M):
        rows = start + tl.arange(0, M)
        row_ok = rows < tokens
        q = _tile(q_at, rows, features, q_row, q_column, tokens=tokens, width=width)
        s = _logits(q, k, rows, columns, scale=scale, tokens=tokens, causal=causal, precision=precision)
        lse = tl.load(lse_at + of_head + rows, row_ok, float("inf"))
        counts = (tl.load(kind_at + rows, row_ok, 0) == 2)[:, None] & (lse < float("inf"))[:, None]
        total += tl.sum(tl.where(counts, tl.exp2(s - tl.where(lse < float("inf"), lse, 0.0)[:, None]), 0.0), 0)
    tl.store(received_at + of_head + columns, total, columns < tokens)
