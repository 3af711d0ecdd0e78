"""Recurrences over a sequence in PyTorch on the CPU: for each class a plain loop, which is the meaning, and the fastest forms known.

Tensors are [heads, T, d], contiguous: the layout that suits batched matrix products, so that no time goes into moving axes. Decays are
logarithms, at most 0. `chunk` is the number of positions that one block of matrix products covers.

The factored forms of decay by row scale keys by the exponential of minus the decay since the chunk's middle. They are the fastest and overflow for
strong decay in long chunks; the measurements use the gates of trained models, for which they hold.
"""

import torch

# ---- shared parts -------------------------------------------------------------------------------------------------------------


def chunks(x, c):
    """[h, T, ...] as [h, T / c, c, ...]."""
    return x.unflatten(1, (-1, c))


def lower(c, diagonal=0):
    return torch.ones(c, c).tril(diagonal)


def inverse_by_solve(a):
    """(I + a)^-1 of strictly lower a."""
    eye = torch.eye(a.shape[-1]).expand_as(a).contiguous()
    return torch.linalg.solve_triangular(a + eye, eye, upper=False, unitriangular=True)


def inverse_by_doubling(a):
    """(I + a)^-1 = (I - a)(I + a^2)(I + a^4) …: matrix products only."""
    c = a.shape[-1]
    eye = torch.eye(c)
    result, power, reach = eye - a, a, 2
    while reach < c:
        power = power @ power
        result = result + result @ power
        reach *= 2
    return result


def inverse_by_blocks(a):
    """(I + a)^-1 by halves: small blocks by doubling, the rest by two products."""
    c = a.shape[-1]
    if c <= 16:
        return inverse_by_doubling(a)
    h = c // 2
    top, bottom = inverse_by_blocks(a[..., :h, :h]), inverse_by_blocks(a[..., h:, h:])
    result = torch.zeros_like(a)
    result[..., :h, :h], result[..., h:, h:] = top, bottom
    result[..., h:, :h] = -bottom @ (a[..., h:, :h] @ top)
    return result


INVERSES = {"solve": inverse_by_solve, "doubling": inverse_by_doubling, "blocks": inverse_by_blocks}


def carried(updates, decay):
    """States before each chunk: S[n + 1] = decay[n] * S[n] + updates[n]; updates [h, n, k, v], decay [h, n, k or 1, 1] or None."""
    states = torch.zeros_like(updates)
    for n in range(updates.shape[1] - 1):
        if decay is None:
            torch.add(states[:, n], updates[:, n], out=states[:, n + 1])
        else:
            torch.addcmul(updates[:, n], states[:, n], decay[:, n], out=states[:, n + 1])
    return states


# ---- plain loops --------------------------------------------------------------------------------------------------------------


def loop_linear(q, k, v, g=None):
    """S = exp(g) S + k v; o = q S. g: none, [h, T] or [h, T, k]."""
    s, out = q.new_zeros(q.shape[0], k.shape[2], v.shape[2]), torch.empty_like(v)
    for t in range(q.shape[1]):
        if g is not None:
            s = s * g[:, t].exp().reshape(q.shape[0], -1, 1)
        s = s + k[:, t, :, None] * v[:, t, None]
        out[:, t] = torch.einsum("hk,hkv->hv", q[:, t], s)
    return out


def loop_delta(q, k, v, b, g=None):
    """S = exp(g) S; S = S + b k (v - k S); o = q S."""
    s, out = q.new_zeros(q.shape[0], k.shape[2], v.shape[2]), torch.empty_like(v)
    for t in range(q.shape[1]):
        if g is not None:
            s = s * g[:, t].exp().reshape(q.shape[0], -1, 1)
        error = b[:, t, None] * (v[:, t] - torch.einsum("hk,hkv->hv", k[:, t], s))
        s = s + k[:, t, :, None] * error[:, None]
        out[:, t] = torch.einsum("hk,hkv->hv", q[:, t], s)
    return out


def loop_rank_one(q, k, v, a, b, g):
    """S = exp(g) S + b (a S) + k v with the state before on the right; o = q S."""
    s, out = q.new_zeros(q.shape[0], k.shape[2], v.shape[2]), torch.empty_like(v)
    for t in range(q.shape[1]):
        read = torch.einsum("hk,hkv->hv", a[:, t], s)
        s = s * g[:, t, :, None].exp() + b[:, t, :, None] * read[:, None] + k[:, t, :, None] * v[:, t, None]
        out[:, t] = torch.einsum("hk,hkv->hv", q[:, t], s)
    return out


def loop_stabilised(q, k, v, f, i):
    """m' = max(f + m, i); S = exp(f + m - m') S + exp(i - m') k v, n alike; o = q S / max(|q n|, exp(-m'))."""
    h = q.shape[0]
    s, z, m = q.new_zeros(h, k.shape[2], v.shape[2]), q.new_zeros(h, k.shape[2]), q.new_full((h,), -torch.inf)
    out = torch.empty_like(v)
    for t in range(q.shape[1]):
        new = torch.maximum(f[:, t] + m, i[:, t])
        keep, write, m = (f[:, t] + m - new).exp(), (i[:, t] - new).exp(), new
        s = keep[:, None, None] * s + write[:, None, None] * k[:, t, :, None] * v[:, t, None]
        z = keep[:, None] * z + write[:, None] * k[:, t]
        weight = torch.maximum((q[:, t] * z).sum(-1).abs(), (-m).exp())
        out[:, t] = torch.einsum("hk,hkv->hv", q[:, t], s) / weight[:, None]
    return out


def loop_element_wise(x, dt, a, b, c):
    """h = exp(dt a) h + dt b x; y = sum of c h. x, dt [T, w]; a [w, n]; b, c [T, n]."""
    h, out = x.new_zeros(x.shape[1], b.shape[1]), torch.empty_like(x)
    for t in range(x.shape[0]):
        h = (dt[t, :, None] * a).exp() * h + (dt[t] * x[t])[:, None] * b[t]
        out[t] = (h * c[t]).sum(-1)
    return out


def loop_gated_rnn(f, x):
    """h = f h + (1 - f) x. [T, n]."""
    h, out = torch.zeros_like(x[0]), torch.empty_like(x)
    for t in range(x.shape[0]):
        h = f[t] * h + (1 - f[t]) * x[t]
        out[t] = h
    return out


# ---- fast forms ---------------------------------------------------------------------------------------------------------------


def none(q, k, v, chunk):
    q, k, v = chunks(q, chunk), chunks(k, chunk), chunks(v, chunk)
    states = carried(k.transpose(-1, -2) @ v, None)
    scores = (q @ k.transpose(-1, -2)).tril_()
    return (q @ states + scores @ v).flatten(1, 2)


def none_walk(q, k, v, chunk):
    """One chunk after the other: everything stays in the cache."""
    out, s = torch.empty_like(v), q.new_zeros(q.shape[0], k.shape[2], v.shape[2])
    for t in range(0, q.shape[1], chunk):
        a, b, c = q[:, t : t + chunk], k[:, t : t + chunk], v[:, t : t + chunk]
        scores = torch.bmm(a, b.transpose(1, 2)).tril_()
        out[:, t : t + chunk] = torch.baddbmm(torch.bmm(a, s), scores, c)
        s.baddbmm_(b.transpose(1, 2), c)
    return out


def scalar(q, k, v, g, chunk):
    """Mamba-2's form: the mask of decays is a matrix beside the scores."""
    q, k, v, g = chunks(q, chunk), chunks(k, chunk), chunks(v, chunk), chunks(g, chunk).cumsum(-1)
    last = g[..., -1:]
    states = carried((k * (last - g).exp()[..., None]).transpose(-1, -2) @ v, last[..., None].exp())
    scores = (q @ k.transpose(-1, -2)).mul_((g[..., :, None] - g[..., None, :]).tril_().exp_()).tril_()
    return ((q * g.exp()[..., None]) @ states + scores @ v).flatten(1, 2)


def scalar_walk(q, k, v, g, chunk):
    out, s = torch.empty_like(v), q.new_zeros(q.shape[0], k.shape[2], v.shape[2])
    sums = chunks(g, chunk).cumsum(-1)
    for n, t in enumerate(range(0, q.shape[1], chunk)):
        a, b, c, e = q[:, t : t + chunk], k[:, t : t + chunk], v[:, t : t + chunk], sums[:, n]
        scores = torch.bmm(a, b.transpose(1, 2)).mul_((e[:, :, None] - e[:, None, :]).tril_().exp_()).tril_()
        out[:, t : t + chunk] = torch.baddbmm(torch.bmm(a * e.exp()[..., None], s), scores, c)
        last = e[:, -1:]
        s.mul_(last[..., None].exp()).baddbmm_((b * (last - e).exp()[..., None]).transpose(1, 2), c)
    return out


def vector(q, k, v, g, chunk):
    """Factored about the middle of each chunk."""
    q, k, v, g = chunks(q, chunk), chunks(k, chunk), chunks(v, chunk), chunks(g, chunk).cumsum(-2)
    middle, last = g[..., chunk // 2 : chunk // 2 + 1, :], g[..., -1:, :]
    down, up = (g - middle).exp(), (middle - g).exp()
    qs, ks = q * down, k * up
    states = carried((ks * (last - middle).exp()).transpose(-1, -2) @ v, last.exp().transpose(-1, -2))
    scores = (qs @ ks.transpose(-1, -2)).tril_()
    return (qs @ (states * middle.exp().transpose(-1, -2)) + scores @ v).flatten(1, 2)


def vector_walk(q, k, v, g, chunk):
    out, s = torch.empty_like(v), q.new_zeros(q.shape[0], k.shape[2], v.shape[2])
    for t in range(0, q.shape[1], chunk):
        e = g[:, t : t + chunk].cumsum(1)
        middle, last = e[:, chunk // 2 : chunk // 2 + 1], e[:, -1:]
        a, b, c = q[:, t : t + chunk] * (e - middle).exp(), k[:, t : t + chunk] * (middle - e).exp(), v[:, t : t + chunk]
        scores = torch.bmm(a, b.transpose(1, 2)).tril_()
        s.mul_(middle.exp().transpose(1, 2))
        out[:, t : t + chunk] = torch.baddbmm(torch.bmm(a, s), scores, c)
        s.baddbmm_(b.transpose(1, 2), c).mul_((last - middle).exp().transpose(1, 2))
    return out


def vector_safe(q, k, v, g, chunk, sub=16):
    """Sub-chunks that are anchored where each begins, and an exact diagonal: holds for any decay."""
    h, n = q.shape[0], q.shape[1] // chunk
    q, k, v, g = chunks(q, chunk), chunks(k, chunk), chunks(v, chunk), chunks(g, chunk).cumsum(-2)
    last = g[..., -1:, :]
    states = carried((k * (last - g).exp()).transpose(-1, -2) @ v, last.exp().transpose(-1, -2))
    out = (q * g.exp()) @ states
    scores = q.new_zeros(h, n, chunk, chunk)
    for i in range(0, chunk, sub):
        rows = slice(i, i + sub)
        if i > 0:
            anchor = g[..., i - 1 : i, :]
            left = q[..., rows, :] * (g[..., rows, :] - anchor).exp()
            scores[..., rows, :i] = left @ (k[..., :i, :] * (anchor - g[..., :i, :]).exp()).transpose(-1, -2)
        for j in range(i, i + sub):
            weight = (g[..., j : i + sub, :] - g[..., j : j + 1, :]).exp()
            scores[..., j : i + sub, j] = (q[..., j : i + sub, :] * weight * k[..., j : j + 1, :]).sum(-1)
    return (out + scores @ v).flatten(1, 2)


def wy_walk(q, s, reads, writes, values, scores, keep):
    """The part of a delta rule that goes from chunk to chunk: errors u = values - reads S, results, and the next state."""
    out = torch.empty_like(values)
    for n in range(values.shape[1]):
        u = torch.baddbmm(values[:, n], reads[:, n], s, alpha=-1)
        out[:, n] = torch.baddbmm(torch.bmm(q[:, n], s), scores[:, n], u)
        if keep is not None:
            s.mul_(keep[:, n])
        s.baddbmm_(writes[:, n].transpose(1, 2), u)
    return out.flatten(1, 2)


def delta(q, k, v, b, chunk, inverse):
    q, k, v, b = chunks(q, chunk), chunks(k, chunk), chunks(v, chunk), chunks(b, chunk)[..., None]
    kb = k * b
    solved = INVERSES[inverse]((kb @ k.transpose(-1, -2)).tril_(-1))
    scores = (q @ k.transpose(-1, -2)).tril_()
    s = q.new_zeros(q.shape[0], k.shape[-1], v.shape[-1])
    return wy_walk(q, s, solved @ kb, k, solved @ (v * b), scores, None)


def gated_delta(q, k, v, b, g, chunk, inverse):
    q, k, v, b, g = (chunks(x, chunk) for x in (q, k, v, b, g))
    g, b = g.cumsum(-1), b[..., None]
    decay = (g[..., :, None] - g[..., None, :]).tril_().exp_()
    kb, last = k * b, g[..., -1:]
    solved = INVERSES[inverse]((kb @ k.transpose(-1, -2)).mul_(decay).tril_(-1))
    scores = (q @ k.transpose(-1, -2)).mul_(decay).tril_()
    e = g.exp()[..., None]
    s = q.new_zeros(q.shape[0], k.shape[-1], v.shape[-1])
    writes = k * (last - g).exp()[..., None]
    return wy_walk(q * e, s, solved @ (kb * e), writes, solved @ (v * b), scores, last.exp()[..., None])


def vector_delta(q, k, v, b, g, chunk, inverse):
    q, k, v, b, g = (chunks(x, chunk) for x in (q, k, v, b, g))
    g, b = g.cumsum(-2), b[..., None]
    middle, last = g[..., chunk // 2 : chunk // 2 + 1, :], g[..., -1:, :]
    down, up = (g - middle).exp(), (middle - g).exp()
    qs, kd, ku = q * down, k * b * down, k * up
    solved = INVERSES[inverse]((kd @ ku.transpose(-1, -2)).tril_(-1))
    scores = (qs @ ku.transpose(-1, -2)).tril_()
    before = middle.exp()
    s = q.new_zeros(q.shape[0], k.shape[-1], v.shape[-1])
    writes = ku * (last - middle).exp()
    return wy_walk(qs * before, s, solved @ (kd * before), writes, solved @ (v * b), scores, last.exp().transpose(-1, -2))


def rank_one(q, k, v, a, b, g, chunk, inverse):
    q, k, v, a, b, g = (chunks(x, chunk) for x in (q, k, v, a, b, g))
    sums = g.cumsum(-2)
    middle, last = sums[..., chunk // 2 : chunk // 2 + 1, :], sums[..., -1:, :]
    qs, as_ = q * (sums - middle).exp(), a * (sums - g - middle).exp()
    up = (middle - sums).exp()
    bs, ks = b * up, k * up
    solved = INVERSES[inverse]((as_ @ bs.transpose(-1, -2)).tril_(-1).neg_())
    values = solved @ ((as_ @ ks.transpose(-1, -2)).tril_(-1) @ v)
    before, after = middle.exp(), (last - middle).exp()
    reads, qb = solved @ (as_ * before), (qs @ bs.transpose(-1, -2)).tril_()
    own = (qs @ ks.transpose(-1, -2)).tril_() @ v
    update = (ks * after).transpose(-1, -2) @ v
    qs, bs, keep = qs * before, bs * after, last.exp().transpose(-1, -2)
    s, out = q.new_zeros(q.shape[0], k.shape[-1], v.shape[-1]), torch.empty_like(v)
    for n in range(v.shape[1]):
        u = torch.baddbmm(values[:, n], reads[:, n], s)
        out[:, n] = torch.baddbmm(torch.baddbmm(own[:, n], qs[:, n], s), qb[:, n], u)
        s = torch.addcmul(update[:, n], s, keep[:, n]).baddbmm_(bs[:, n].transpose(1, 2), u)
    return out.flatten(1, 2)


def stabilised(q, k, v, f, i, chunk):
    """The running maximum goes from chunk to chunk first; then every chunk is matrix products about its own."""
    h, t = f.shape
    q, k, v, f, i = (chunks(x, chunk) for x in (q, k, v, f, i))
    f = f.cumsum(-1)
    last = f[..., -1]
    inner = last[..., None] - f + i
    tops = inner.amax(-1)
    m = torch.empty(h, f.shape[1] + 1)
    m[:, 0] = -torch.inf
    for n in range(f.shape[1]):
        torch.maximum(last[:, n] + m[:, n], tops[:, n], out=m[:, n + 1])
    before, after = m[:, :-1], m[:, 1:]
    weighted = k * (inner - after[..., None]).exp()[..., None]
    keep = (last + before - after).exp()[..., None, None]
    states = carried(weighted.transpose(-1, -2) @ v, keep)
    norms = carried(weighted.sum(-2)[..., None], keep)
    weights = (f[..., :, None] - f[..., None, :] + i[..., None, :]).masked_fill_(lower(chunk) == 0, -torch.inf)
    top = torch.maximum(weights.amax(-1), f + before[..., None])
    scores = (q @ k.transpose(-1, -2)).mul_(weights.sub_(top[..., None]).exp_())
    qs = q * (f + before[..., None] - top).exp()[..., None]
    norm = (qs @ norms)[..., 0] + scores.sum(-1)
    norm = torch.maximum(norm.abs(), (-top).exp())
    return ((qs @ states + scores @ v) / norm[..., None]).flatten(1, 2)


def element_wise(x, dt, a, b, c, chunk):
    """Decays and writes of a chunk at once, one fused multiplication and addition a step, and the reads as a batch of products."""
    t, w = x.shape
    n = b.shape[1]
    out, h = torch.empty_like(x), x.new_zeros(chunk + 1, w, n)
    write = dt * x
    for s in range(0, t, chunk):
        decay = (dt[s : s + chunk, :, None] * a).exp_()
        update = write[s : s + chunk, :, None] * b[s : s + chunk, None]
        for j in range(chunk):
            torch.addcmul(update[j], decay[j], h[j], out=h[j + 1])
        torch.bmm(h[1:], c[s : s + chunk, :, None], out=out[s : s + chunk, :, None])
        h[0] = h[chunk]
    return out


def element_wise_state_major(x, dt, a, b, c, chunk):
    """The same with the state's axis first: long rows of channels."""
    t, w = x.shape
    n = b.shape[1]
    out, h = torch.empty_like(x), x.new_zeros(chunk + 1, n, w)
    write, a = dt * x, a.t().contiguous()
    for s in range(0, t, chunk):
        decay = (dt[s : s + chunk, None] * a).exp_()
        update = write[s : s + chunk, None] * b[s : s + chunk, :, None]
        for j in range(chunk):
            torch.addcmul(update[j], decay[j], h[j], out=h[j + 1])
        torch.bmm(c[s : s + chunk, None], h[1:], out=out[s : s + chunk, None])
        h[0] = h[chunk]
    return out


def gated_rnn(f, x, chunk):
    """One fused multiplication and addition a step, into the result. `chunk` steps' writes are made at a time."""
    out = torch.empty_like(x)
    h = torch.zeros_like(x[0])
    for s in range(0, x.shape[0], chunk):
        write = torch.addcmul(x[s : s + chunk], x[s : s + chunk], f[s : s + chunk], value=-1)
        for j in range(min(chunk, x.shape[0] - s)):
            h = torch.addcmul(write[j], f[s + j], h, out=out[s + j])
    return out


def gated_rnn_scan(f, x, chunk):
    """Steps of all chunks side by side, then what each chunk gets from those before."""
    n = x.shape[0] // chunk
    f, x = f.unflatten(0, (n, chunk)), x.unflatten(0, (n, chunk))
    out, decay = torch.addcmul(x, x, f, value=-1), f.clone()
    for j in range(1, chunk):
        torch.addcmul(out[:, j], f[:, j], out[:, j - 1], out=out[:, j])
        torch.mul(decay[:, j - 1], f[:, j], out=decay[:, j])
    for c in range(1, n):
        out[c].addcmul_(decay[c], out[c - 1, -1])
    return out.flatten(0, 1)


# ---- steps of a block, to be compiled -----------------------------------------------------------------------------------------
#
# A step takes what it carries, then a block of rows of each input; torch.compile fuses what it can, once for all blocks.


def none_step(s, q, k, v):
    scores = torch.bmm(q, k.transpose(1, 2)).tril()
    return torch.baddbmm(torch.bmm(q, s), scores, v), torch.baddbmm(s, k.transpose(1, 2), v)


def scalar_step(s, q, k, v, g):
    g = g.cumsum(1)
    last = g[:, -1:]
    scores = (torch.bmm(q, k.transpose(1, 2)) * (g[:, :, None] - g[:, None, :]).tril().exp()).tril()
    out = torch.baddbmm(torch.bmm(q * g.exp()[..., None], s), scores, v)
    return out, torch.baddbmm(s * last[..., None].exp(), (k * (last - g).exp()[..., None]).transpose(1, 2), v)


def vector_step(s, q, k, v, g):
    g = g.cumsum(1)
    middle, last = g[:, g.shape[1] // 2, None], g[:, -1:]
    q, k, s = q * (g - middle).exp(), k * (middle - g).exp(), s * middle.exp().transpose(1, 2)
    out = torch.baddbmm(torch.bmm(q, s), torch.bmm(q, k.transpose(1, 2)).tril(), v)
    return out, torch.baddbmm(s, k.transpose(1, 2), v) * (last - middle).exp().transpose(1, 2)


def element_wise_step(h, x, dt, b, c, a):
    rows = []
    for j in range(x.shape[0]):
        h = (dt[j, :, None] * a).exp() * h + (dt[j] * x[j])[:, None] * b[j]
        rows.append((h * c[j]).sum(-1))
    return torch.stack(rows), h


def element_wise_state_major_step(h, x, dt, b, c, a):
    rows = []
    for j in range(x.shape[0]):
        h = (dt[j] * a).exp() * h + (dt[j] * x[j]) * b[j, :, None]
        rows.append((h * c[j, :, None]).sum(0))
    return torch.stack(rows), h


def gated_rnn_step(h, f, x):
    rows = []
    for j in range(x.shape[0]):
        h = f[j] * h + (1 - f[j]) * x[j]
        rows.append(h)
    return torch.stack(rows), h


def matrices(step, given, chunk):
    """Blocks of [h, T, ...] with a state [h, k, v]."""
    out, s = torch.empty_like(given[2]), given[0].new_zeros(given[0].shape[0], given[1].shape[2], given[2].shape[2])
    for t in range(0, given[0].shape[1], chunk):
        out[:, t : t + chunk], s = step(s, *(x[:, t : t + chunk] for x in given))
    return out


def rows(step, h, given, whole, chunk):
    """Blocks of [T, ...]; `whole` goes to every block as it is."""
    out = torch.empty_like(given[0])
    for t in range(0, given[0].shape[0], chunk):
        out[t : t + chunk], h = step(h, *(x[t : t + chunk] for x in given), *whole)
    return out


def stepped_element_wise(step, given, chunk):
    x, dt, a, b, c = given
    return rows(step, x.new_zeros(x.shape[1], b.shape[1]), (x, dt, b, c), (a,), chunk)


def stepped_element_wise_state_major(step, given, chunk):
    x, dt, a, b, c = given
    return rows(step, x.new_zeros(b.shape[1], x.shape[1]), (x, dt, b, c), (a.t().contiguous(),), chunk)


def stepped_gated_rnn(step, given, chunk):
    return rows(step, torch.zeros_like(given[0][0]), given, (), chunk)
