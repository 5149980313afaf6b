"""Train a small, real top-2 Mixture-of-Experts byte-level transformer on CPU and record genuine
per-token routing for several text domains.

Nothing here is synthetic: the router is learned by gradient descent on real text, and the trace is
what the trained router picked on held-out text.

Needs torch, which the project itself does not. The demo only replays what this recorded (traces.npz).

Corpora (all from ordinary package registries / the Python install; nothing is committed):
  python   CPython standard library *.py               (PSF licence)          local install
  c        /usr/include/**/*.h  (libc / linux headers)  (GPL+syscall-note/LGPL) linux-libc-dev, libc6-dev
  novels   six Jane Austen novels                       (public domain)         Debian r-cran-janeaustenr
  man_en   Linux man pages, English                     (man-pages licences)    Debian manpages, manpages-dev
  man_de   man pages, German                            (GPL-3+)                Debian manpages-de
  man_ja   man pages, Japanese                          (mixed free)            Debian manpages-ja
  man_fr   man pages, French   (NEVER TRAINED ON)       (GPL-3+)                Debian manpages-fr
  man_ru   man pages, Russian  (NEVER TRAINED ON)       (GPL-3+)                Debian manpages-ru

  mkdir CORP && cd CORP
  apt-get download manpages manpages-dev manpages-de manpages-fr manpages-ja manpages-ru r-cran-janeaustenr
  for f in *.deb; do dpkg-deb -x $f x_${f%%_*}; done
  cd .. && python lab/tiny_moe/train.py --corp CORP --out OUT --steps 1500
"""

import argparse
import glob
import gzip
import json
import lzma
import math
import os
import random
import re
import time
import zlib

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

TRAINED = ["python", "c", "novels", "man_en", "man_de", "man_ja"]
UNSEEN = ["man_fr", "man_ru"]


# ------------------------------------------------------------------ corpora
def _cap(b, n=6_000_000):
    return b[:n]


def _shuffled(files, seed=1):
    files = sorted(files)
    random.Random(seed).shuffle(files)
    return files


def read_man(root):
    out = []
    for f in _shuffled(glob.glob(root + "/**/*.gz", recursive=True)):
        if "/man/" not in f or os.path.islink(f):
            continue
        try:
            t = gzip.open(f).read()
        except Exception:
            continue
        if len(t) > 1500:
            out.append(t)
    return out


def read_austen(root):
    p = glob.glob(root + "/**/data/Rdata.rdb", recursive=True)[0]
    b, docs, i = open(p, "rb").read(), [], 0
    while i + 5 < len(b):  # R lazy-load db: 4-byte length, [type byte], stream
        done = False
        for skip, kind in ((4, "zlib"), (5, "bz"), (5, "xz")):
            try:
                if kind == "zlib":
                    d = zlib.decompressobj()
                    raw = d.decompress(b[i + skip :])
                    rest = len(d.unused_data)
                elif kind == "xz":
                    d = (
                        lzma.LZMADecompressor(lzma.FORMAT_ALONE)
                        if b[i + skip] == 0x5D
                        else lzma.LZMADecompressor()
                    )
                    raw = d.decompress(b[i + skip :])
                    rest = len(d.unused_data)
                else:
                    import bz2

                    d = bz2.BZ2Decompressor()
                    raw = d.decompress(b[i + skip :])
                    rest = len(d.unused_data)
                if len(raw) > 100_000:
                    lines = re.findall(rb"[\x20-\x7e]{8,}", raw)
                    docs.append(b"\n".join(lines))
                i = len(b) - rest
                done = True
                break
            except Exception:
                continue
        if not done:
            i += 1
    return docs


def corpora(corp):
    c = {}
    lib = os.path.dirname(os.__file__)
    py = [
        f
        for f in glob.glob(lib + "/**/*.py", recursive=True)
        if not re.search(r"/site-packages/|/test|/tests/|/encodings/|/pydoc_data/|/idlelib/", f)
    ]
    c["python"] = [open(f, "rb").read() for f in _shuffled(py)]
    h = [f for f in glob.glob("/usr/include/**/*.h", recursive=True) if "/python" not in f]
    c["c"] = [open(f, "rb").read() for f in _shuffled(h)][:2500]
    c["novels"] = read_austen(corp + "/x_r-cran-janeaustenr")
    c["man_en"] = read_man(corp + "/x_manpages") + read_man(corp + "/x_manpages-dev")
    for k in ("de", "ja", "fr", "ru"):
        c["man_" + k] = read_man(corp + "/x_manpages-" + k)
    return c


def split(docs, val_frac=0.12):
    """Documents, not bytes, are split, so held-out text never shares a file with training text."""
    if len(docs) < 20:  # the novels: hold out the tail of each
        tr = b"\n\n".join(d[: int(len(d) * (1 - val_frac))] for d in docs)
        va = b"\n\n".join(d[int(len(d) * (1 - val_frac)) :] for d in docs)
    else:
        n = max(1, int(len(docs) * val_frac))
        va, tr = b"\n\n".join(docs[:n]), b"\n\n".join(docs[n:])
    return np.frombuffer(_cap(tr), np.uint8), np.frombuffer(_cap(va, 2_000_000), np.uint8)


# ------------------------------------------------------------------ model
class MoE(nn.Module):
    def __init__(s, d, ff, E, k):
        super().__init__()
        s.E, s.k = E, k
        s.router = nn.Linear(d, E, bias=False)
        s.w1 = nn.Parameter(torch.randn(E, d, ff) / math.sqrt(d))
        s.w2 = nn.Parameter(torch.randn(E, ff, d) / math.sqrt(ff) / 2)
        s.last = None

    def forward(s, x):
        B, T, d = x.shape
        h = x.reshape(-1, d)
        logits = s.router(h)
        p = logits.float().softmax(-1)
        w, idx = p.topk(s.k, -1)
        w = w / w.sum(-1, keepdim=True)
        s.last = (idx.detach(), w.detach())
        flat = idx.reshape(-1)
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=s.E)
        tok = order // s.k
        hs = h[tok]
        outs, o = [], 0
        for e, n in enumerate(counts.tolist()):
            if n:
                outs.append(F.gelu(hs[o : o + n] @ s.w1[e]) @ s.w2[e])
                o += n
        y = torch.cat(outs) * w.reshape(-1)[order, None]
        out = torch.zeros_like(h).index_add(0, tok, y)
        f = counts.float() / flat.numel()
        aux = s.E * (f * p.mean(0)).sum()  # Switch/Mixtral load-balancing loss over the whole batch
        z = logits.float().logsumexp(-1).pow(2).mean()
        return out.view(B, T, d), aux, z


class Block(nn.Module):
    def __init__(s, d, H, ff, E, k):
        super().__init__()
        s.n1, s.n2 = nn.RMSNorm(d), nn.RMSNorm(d)
        s.qkv, s.o, s.H = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False), H
        s.moe = MoE(d, ff, E, k)

    def forward(s, x):
        B, T, d = x.shape
        q, k, v = s.qkv(s.n1(x)).view(B, T, 3, s.H, d // s.H).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + s.o(a.transpose(1, 2).reshape(B, T, d))
        m, aux, z = s.moe(s.n2(x))
        return x + m, aux, z


class LM(nn.Module):
    def __init__(s, d=128, L=6, H=4, ff=192, E=32, k=2, T=256):
        super().__init__()
        s.emb, s.pos = nn.Embedding(256, d), nn.Embedding(T, d)
        s.bl = nn.ModuleList(Block(d, H, ff, E, k) for _ in range(L))
        s.nf, s.head = nn.RMSNorm(d), nn.Linear(d, 256, bias=False)
        for m in (s.emb, s.pos):
            nn.init.normal_(m.weight, std=0.02)

    def forward(s, x):
        h = s.emb(x) + s.pos(torch.arange(x.shape[1]))
        aux = z = 0.0
        for b in s.bl:
            h, a, zz = b(h)
            aux, z = aux + a, z + zz
        return s.head(s.nf(h)), aux / len(s.bl), z / len(s.bl)


# ------------------------------------------------------------------ run
def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--corp", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--steps", type=int, default=1500)
    ap.add_argument("--batch", type=int, default=24)
    ap.add_argument("--layers", type=int, default=6)
    ap.add_argument("--experts", type=int, default=32)
    ap.add_argument("--d", type=int, default=128)
    ap.add_argument("--ff", type=int, default=192)
    ap.add_argument("--topk", type=int, default=2)
    ap.add_argument("--T", type=int, default=256)
    ap.add_argument("--aux", type=float, default=0.01)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--trace_seqs", type=int, default=160)
    ap.add_argument("--trace_runs", type=int, default=20)
    ap.add_argument("--weights", default="", help="save fp16 weights to this file")
    ap.add_argument("--max_minutes", type=float, default=20)
    ap.add_argument("--checkpoints", default="0,100,400", help="steps at which to record early traces too")
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    torch.set_num_threads(2)
    data = {k: split(v) for k, v in corpora(a.corp).items()}
    info = {k: dict(train_bytes=len(t), heldout_bytes=len(v)) for k, (t, v) in data.items()}
    print(json.dumps(info), flush=True)
    model = LM(a.d, a.layers, 4, a.ff, a.experts, a.topk, a.T)
    n_par = sum(p.numel() for p in model.parameters())
    print("params", n_par, flush=True)
    opt = torch.optim.AdamW(model.parameters(), lr=1, betas=(0.9, 0.95), weight_decay=0.05)
    os.makedirs(a.out, exist_ok=True)

    def sample(arr, n):
        s = rng.integers(0, len(arr) - a.T - 1, n)
        return np.stack([arr[i : i + a.T + 1] for i in s]).astype(np.int64)

    # fixed held-out windows, the same for every checkpoint
    ev = {}
    erng = np.random.default_rng(12345)
    for k, (t, v) in data.items():
        # trace_runs random places, contiguous windows in document order from each: keeps temporal locality
        # without letting one odd file (a code-page table, a generated header) stand for the whole domain
        per, rows = a.trace_seqs // a.trace_runs, []
        for st in erng.integers(0, max(1, len(v) - per * a.T - 1), a.trace_runs):
            rows += [v[st + i * a.T : st + i * a.T + a.T + 1] for i in range(per)]
        ev[k] = np.stack(rows).astype(np.int64)

    @torch.no_grad()
    def record():
        model.eval()
        tr, losses = {}, {}
        for k, w in ev.items():
            ids, wts, ls = [], [], []
            for i in range(0, len(w), 20):
                x = torch.from_numpy(w[i : i + 20])
                lg, _, _ = model(x[:, :-1])
                ls.append(F.cross_entropy(lg.reshape(-1, 256), x[:, 1:].reshape(-1)).item())
                ids.append(torch.stack([b.moe.last[0] for b in model.bl], 1).numpy().astype(np.uint8))
                wts.append(
                    torch.stack([b.moe.last[1][:, 0] for b in model.bl], 1)
                    .mul(255)
                    .round()
                    .numpy()
                    .astype(np.uint8)
                )
            tr[k] = np.concatenate(ids)
            tr[k + "__w0"] = np.concatenate(wts)
            losses[k] = float(np.mean(ls))
        model.train()
        return tr, losses

    early = {int(s) for s in a.checkpoints.split(",") if s}
    t0, log = time.time(), []
    step = 0
    for step in range(a.steps):
        if step in early:
            tr, ls = record()
            np.savez_compressed(
                f"{a.out}/counts_step{step}.npz",
                **{
                    k: np.stack(
                        [np.bincount(v[:, l].ravel(), minlength=a.experts) for l in range(a.layers)]
                    ).astype(np.int32)
                    for k, v in tr.items()
                    if not k.endswith("__w0")
                },
            )
            log.append(dict(step=step, heldout_nats_per_byte=ls))
            print(json.dumps(log[-1]), flush=True)
        # the decay follows steps or the clock, whichever is further on, so a slow machine still finishes it
        # (the recorded traces were made before this: both runs hit the 20-minute limit mid-decay)
        prog = min(1.0, max(step / a.steps, (time.time() - t0) / (a.max_minutes * 60)))
        lr = 3e-3 * min(1, (step + 1) / 60) * (0.5 * (1 + math.cos(math.pi * prog)) * 0.95 + 0.05)
        for g in opt.param_groups:
            g["lr"] = lr
        doms = [TRAINED[i % len(TRAINED)] for i in range(a.batch)]
        xb = torch.from_numpy(np.concatenate([sample(data[d][0], 1) for d in doms]))
        lg, aux, z = model(xb[:, :-1])
        ce = F.cross_entropy(lg.reshape(-1, 256), xb[:, 1:].reshape(-1))
        loss = ce + a.aux * aux + 1e-4 * z
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 25 == 0:
            el = time.time() - t0
            print(
                f"step {step} ce {ce.item():.3f} aux {aux.item():.3f} {el:.0f}s tok/s {(step + 1) * a.batch * a.T / max(el, 1e-9):.0f}",
                flush=True,
            )
        if time.time() - t0 > a.max_minutes * 60:
            break
    tr, ls = record()
    print("final", json.dumps(ls), "wall", round(time.time() - t0), flush=True)
    if a.weights:
        torch.save({k: v.half() for k, v in model.state_dict().items()}, a.weights)
    order = TRAINED + UNSEEN
    np.savez_compressed(f"{a.out}/traces.npz", **{k: tr[k] for k in order})
    np.savez_compressed(f"{a.out}/top1_weight_u8.npz", **{k: tr[k + "__w0"] for k in order})
    json.dump(
        dict(
            args=vars(a),
            params=n_par,
            steps_done=step + 1,
            wall_s=round(time.time() - t0),
            corpora=info,
            heldout_nats_per_byte=ls,
            early=log,
            trained=TRAINED,
            unseen=UNSEEN,
            seq_len=a.T,
            shape="[trace_seqs*seq_len, layers, topk] uint8",
        ),
        open(f"{a.out}/meta.json", "w"),
        indent=1,
    )


if __name__ == "__main__":
    main()
