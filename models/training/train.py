#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Trains five tiny demo language models from scratch on the King James Bible and writes them as GGUF v3 files.

  families   llama (SentencePiece BPE), gpt2 and bloom (byte-level BPE), bert (WordPiece, masked LM), t5 (unigram, span corruption)
  files      common.py (corpus, tokenizer trainers, GGUF writer, training loop), train.py (the models), merge_head.py (BERT's head into its file)

To reproduce on Debian bookworm (2 cores, about 40 minutes in all):
  apt-get install --no-install-recommends bible-kjv python3-torch python3-sentencepiece python3-numpy libopenblas0-pthread
  for each line:   /usr/bin/python3 train.py FAMILY STEPS
    llama 3900    (16 min)      gpt2 3000    (9 min)      bert 1800    (4 min)      t5 1500    (4 min)      bloom 800    (2 min)
bert, bloom and above all t5 are short of training (machine time was limited): t5 has learned little more than token frequencies;
give it 5 to 10 times the steps.
Corpus and tokenizers are made on the first call and kept in data/; the models go to out/FAMILY/. Everything is seeded
(SEED in common.py). Tokenizers and batches repeat bit by bit; the weights should do so on one kind of machine with one number of
threads (bfloat16 products by oneDNN, which here uses AVX512-BF16), and elsewhere to within rounding, so expect the same
perplexities and not the same bytes.
"""
import sys, math, json, os
import torch, torch.nn as nn, torch.nn.functional as F
from common import *
torch.set_num_threads(2)

# ================================================================== llama
class RMSNorm(nn.Module):
    def __init__(s, d, eps): super().__init__(); s.weight = nn.Parameter(torch.ones(d)); s.eps = eps
    def forward(s, x): x = x.float(); return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + s.eps) * s.weight

class Llama(nn.Module):
    """RMSNorm, RoPE on neighbouring pairs (the order llama.cpp stores for arch 'llama'), GQA, SwiGLU, tied output"""
    C = dict(V=1536, d=128, L=6, h=4, kv=2, ff=352, ctx=256, eps=1e-5, base=10000.0)
    def __init__(s):
        super().__init__(); c = s.C; d, hd = c['d'], c['d'] // c['h']; lin = lambda o, i: nn.Linear(i, o, bias=False)
        s.emb = nn.Embedding(c['V'], d); s.norm = RMSNorm(d, c['eps'])
        s.blk = nn.ModuleList(nn.ModuleDict(dict(attn_norm=RMSNorm(d, c['eps']), attn_q=lin(d, d), attn_k=lin(c['kv'] * hd, d),
            attn_v=lin(c['kv'] * hd, d), attn_output=lin(d, d), ffn_norm=RMSNorm(d, c['eps']),
            ffn_gate=lin(c['ff'], d), ffn_up=lin(c['ff'], d), ffn_down=lin(d, c['ff']))) for _ in range(c['L']))
        init(s, c['L'], ('attn_output', 'ffn_down'))
        a = torch.outer(torch.arange(c['ctx']).float(), c['base'] ** (-torch.arange(0, hd, 2).float() / hd))
        s.register_buffer('cos', a.cos()); s.register_buffer('sin', a.sin())
    def rope(s, x):                                        # x [B, heads, T, hd]
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1); c, n = s.cos[:x.shape[2]], s.sin[:x.shape[2]]
        return torch.stack((a * c - b * n, a * n + b * c), -1).flatten(-2)
    def forward(s, t):
        c = s.C; B, T = t.shape; h, kv = c['h'], c['kv']; hd = c['d'] // h
        x = s.emb(t); mask = torch.full((T, T), -1e30).triu(1)
        for m in s.blk:
            n = m['attn_norm'](x); split = lambda y, k: y.view(B, T, k, hd).transpose(1, 2)
            q, k, v = s.rope(split(m['attn_q'](n), h)), s.rope(split(m['attn_k'](n), kv)), split(m['attn_v'](n), kv)
            k, v = k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1)
            p = ((q @ k.transpose(-1, -2)).float() / math.sqrt(hd) + mask).softmax(-1)
            x = x + m['attn_output']((p @ v).transpose(1, 2).flatten(2))
            n = m['ffn_norm'](x); x = x + m['ffn_down'](F.silu(m['ffn_gate'](n)) * m['ffn_up'](n))
        return F.linear(s.norm(x), s.emb.weight).float()
    def gguf(s):
        c = s.C; a = 'llama.'
        kv = [(a + 'context_length', U32, c['ctx']), (a + 'embedding_length', U32, c['d']), (a + 'block_count', U32, c['L']), (a + 'vocab_size', U32, c['V']),
              (a + 'feed_forward_length', U32, c['ff']), (a + 'attention.head_count', U32, c['h']), (a + 'attention.head_count_kv', U32, c['kv']),
              (a + 'attention.layer_norm_rms_epsilon', F32, c['eps']), (a + 'rope.dimension_count', U32, c['d'] // c['h']), (a + 'rope.freq_base', F32, c['base'])]
        t = {'token_embd.weight': s.emb.weight}
        for i, m in enumerate(s.blk):
            for k in m: t[f'blk.{i}.{k}.weight'] = m[k].weight
        t['output_norm.weight'] = s.norm.weight
        return kv, t

def init(model, L, resid):
    """N(0, 0.02)-like start; the projections that write to the residual stream are scaled down by sqrt(2 L)"""
    for n, m in model.named_modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=1 / math.sqrt(m.in_features) / (math.sqrt(2 * L) if n.endswith(resid) else 1))
            if m.bias is not None: nn.init.zeros_(m.bias)
        if isinstance(m, nn.Embedding): nn.init.normal_(m.weight, std=0.05)

def lm_loss(model, x, y): return F.cross_entropy(model(x).flatten(0, 1), y.flatten())
def arrays(t): return {k: v.detach().float().numpy() for k, v in t.items()}

def llama_tokenizer_kv(sp):
    tok, score, typ = sp_tables(sp)
    return [('tokenizer.ggml.model', STR, 'llama'), ('tokenizer.ggml.pre', STR, 'default'), ('tokenizer.ggml.tokens', ARR, (STR, tok)),
            ('tokenizer.ggml.scores', ARR, (F32, score)), ('tokenizer.ggml.token_type', ARR, (I32, typ)),
            ('tokenizer.ggml.bos_token_id', U32, 1), ('tokenizer.ggml.eos_token_id', U32, 2), ('tokenizer.ggml.unknown_token_id', U32, 0),
            ('tokenizer.ggml.add_bos_token', BOOL, True), ('tokenizer.ggml.add_eos_token', BOOL, False), ('tokenizer.ggml.add_space_prefix', BOOL, True)]

def causal(family, model, enc, begin, end, tokenizer_kv, steps, batch, lr, both=False):
    """Train a causal LM; the stream is begin + chapter + end for every chapter"""
    ctx = model.C['ctx']; tr, ev = ([t for c in part for t in begin + enc(c) + end] for part in corpus())
    chars = sum(map(len, corpus()[1])); print(family, 'tokens', len(tr), 'held-out', len(ev), 'chars/token', chars / len(ev), flush=True)
    def save(v):
        kv, t = model.gguf()
        for f16 in ((True, False) if both else (True,)):
            write_gguf(f'{OUT}/{family}/model-{"f16" if f16 else "f32"}.gguf', general_kv(family, f16) + kv + tokenizer_kv, arrays(t), f16, ('position_embd.weight',))
        torch.save(model.state_dict(), f'{DATA}/{family}.pt')
        json.dump(dict(heldout_loss=v, heldout_ppl=math.exp(v), heldout_tokens=len(ev), heldout_chars=chars, bits_per_char=v * len(ev) / chars / math.log(2),
                       parameters=sum(p.numel() for p in model.parameters()), train_tokens=len(tr), steps=steps, batch=batch, lr=lr), open(f'{DATA}/{family}.json', 'w'))
    fit(model, lm_loss, stream_batches(tr, batch, ctx, SEED), steps, lr, lambda: stream_eval(model, ev, ctx), save, log=lambda m: print(family, m, flush=True))

def train_llama(steps):
    sp = sentencepiece_model('bpe'); torch.manual_seed(SEED)
    causal('llama', Llama(), sp.encode, [1], [2], llama_tokenizer_kv(sp), steps, 8, 3e-3, both=True)

# ================================================================== gpt2 and bloom
class Causal(nn.Module):
    """Pre-LN decoder with biases and tanh GELU, tied output. kind 'gpt2': learned positions;
    kind 'bloom': LayerNorm after the embedding and ALiBi instead of positions."""
    def __init__(s, kind, L):
        super().__init__(); c = s.C = dict(V=1536, d=128, L=L, h=4, ff=512, ctx=256, eps=1e-5); s.kind = kind; d = c['d']
        s.emb = nn.Embedding(c['V'], d)
        if kind == 'gpt2': s.pos = nn.Embedding(c['ctx'], d)
        else: s.emb_norm = nn.LayerNorm(d, c['eps'])
        s.norm = nn.LayerNorm(d, c['eps'])
        s.blk = nn.ModuleList(nn.ModuleDict(dict(attn_norm=nn.LayerNorm(d, c['eps']), attn_qkv=nn.Linear(d, 3 * d), attn_output=nn.Linear(d, d),
            ffn_norm=nn.LayerNorm(d, c['eps']), ffn_up=nn.Linear(d, c['ff']), ffn_down=nn.Linear(c['ff'], d))) for _ in range(L))
        init(s, L, ('attn_output', 'ffn_down'))
        slope = 2.0 ** (-8.0 * torch.arange(1, c['h'] + 1) / c['h']) * (kind == 'bloom')
        r = torch.arange(c['ctx']); s.register_buffer('alibi', slope[:, None, None] * -(r[:, None] - r[None, :]).abs().float())
    def forward(s, t):
        c = s.C; B, T = t.shape; h = c['h']; hd = c['d'] // h
        x = s.emb(t); x = x + s.pos.weight[:T] if s.kind == 'gpt2' else s.emb_norm(x)
        mask = torch.full((T, T), -1e30).triu(1) + s.alibi[:, :T, :T]
        for m in s.blk:
            q, k, v = m['attn_qkv'](m['attn_norm'](x)).view(B, T, 3, h, hd).permute(2, 0, 3, 1, 4)
            p = ((q @ k.transpose(-1, -2)).float() / math.sqrt(hd) + mask).softmax(-1)
            x = x + m['attn_output']((p @ v).transpose(1, 2).flatten(2))
            x = x + m['ffn_down'](F.gelu(m['ffn_up'](m['ffn_norm'](x)), approximate='tanh'))
        return F.linear(s.norm(x), s.emb.weight).float()
    def gguf(s):
        c = s.C; a = s.kind + '.'
        kv = [(a + 'context_length', U32, c['ctx']), (a + 'embedding_length', U32, c['d']), (a + 'block_count', U32, c['L']), (a + 'vocab_size', U32, c['V']),
              (a + 'feed_forward_length', U32, c['ff']), (a + 'attention.head_count', U32, c['h']), (a + 'attention.head_count_kv', U32, c['h']),
              (a + 'attention.layer_norm_epsilon', F32, c['eps'])]
        t = {'token_embd.weight': s.emb.weight}
        if s.kind == 'gpt2': t['position_embd.weight'] = s.pos.weight
        else: t['token_embd_norm.weight'], t['token_embd_norm.bias'] = s.emb_norm.weight, s.emb_norm.bias
        for i, m in enumerate(s.blk):
            for k in m: t[f'blk.{i}.{k}.weight'], t[f'blk.{i}.{k}.bias'] = m[k].weight, m[k].bias
        t['output_norm.weight'], t['output_norm.bias'] = s.norm.weight, s.norm.bias
        return kv, t

def bpe_tokenizer_kv(b):
    return [('tokenizer.ggml.model', STR, 'gpt2'), ('tokenizer.ggml.pre', STR, 'gpt-2'), ('tokenizer.ggml.tokens', ARR, (STR, b.tokens)),
            ('tokenizer.ggml.token_type', ARR, (I32, [1] * b.eot + [3])), ('tokenizer.ggml.merges', ARR, (STR, [' '.join(m) for m in b.merges])),
            ('tokenizer.ggml.bos_token_id', U32, b.eot), ('tokenizer.ggml.eos_token_id', U32, b.eot), ('tokenizer.ggml.add_bos_token', BOOL, False)]

# ================================================================== bert
class Bert(nn.Module):
    """Post-LN encoder with tanh GELU (what llama.cpp evaluates), one token type, masked-LM head with tied decoder"""
    C = dict(V=2048, d=128, L=4, h=4, ff=512, ctx=128, eps=1e-12)
    def __init__(s):
        super().__init__(); c = s.C; d = c['d']; ln = lambda: nn.LayerNorm(d, c['eps']); lin = nn.Linear
        s.emb, s.pos, s.typ, s.emb_norm = nn.Embedding(c['V'], d), nn.Embedding(c['ctx'], d), nn.Embedding(1, d), ln()
        s.blk = nn.ModuleList(nn.ModuleDict(dict(attn_q=lin(d, d), attn_k=lin(d, d), attn_v=lin(d, d), attn_output=lin(d, d), attn_output_norm=ln(),
            ffn_up=lin(d, c['ff']), ffn_down=lin(c['ff'], d), layer_output_norm=ln())) for _ in range(c['L']))
        s.mlm_dense, s.mlm_norm, s.mlm_bias = lin(d, d), ln(), nn.Parameter(torch.zeros(c['V']))
        init(s, c['L'], ())
        # learned positions start as sinusoids: from a random start the loss stays near the unigram entropy for a long time
        a = torch.outer(torch.arange(c['ctx']).float(), 1e4 ** (-torch.arange(0, d, 2).float() / d))
        s.pos.weight.data = 0.07 * torch.cat([a.sin(), a.cos()], 1)
        for m in s.blk: m['attn_k'].weight.data = m['attn_q'].weight.data.clone()   # and attention starts out local
    def hidden(s, t):
        c = s.C; B, T = t.shape; h = c['h']; split = lambda y: y.view(B, T, h, -1).transpose(1, 2)
        x = s.emb_norm(s.emb(t) + s.pos.weight[:T] + s.typ.weight[0])
        for m in s.blk:
            q, k, v = split(m['attn_q'](x)), split(m['attn_k'](x)), split(m['attn_v'](x))
            p = ((q @ k.transpose(-1, -2)).float() / math.sqrt(c['d'] // h)).softmax(-1)
            x = m['attn_output_norm'](x + m['attn_output']((p @ v).transpose(1, 2).flatten(2)))
            x = m['layer_output_norm'](x + m['ffn_down'](F.gelu(m['ffn_up'](x), approximate='tanh')))
        return x
    def head(s, x): return F.linear(s.mlm_norm(F.gelu(s.mlm_dense(x).float(), approximate='tanh')), s.emb.weight).float() + s.mlm_bias
    def gguf(s):
        c = s.C; a = 'bert.'
        kv = [(a + 'context_length', U32, c['ctx']), (a + 'embedding_length', U32, c['d']), (a + 'block_count', U32, c['L']), (a + 'vocab_size', U32, c['V']),
              (a + 'feed_forward_length', U32, c['ff']), (a + 'attention.head_count', U32, c['h']), (a + 'attention.layer_norm_epsilon', F32, c['eps']),
              (a + 'attention.causal', BOOL, False), (a + 'pooling_type', U32, 1)]
        t = {'token_embd.weight': s.emb.weight, 'position_embd.weight': s.pos.weight, 'token_types.weight': s.typ.weight,
             'token_embd_norm.weight': s.emb_norm.weight, 'token_embd_norm.bias': s.emb_norm.bias}
        for i, m in enumerate(s.blk):
            for k in m: t[f'blk.{i}.{k}.weight'], t[f'blk.{i}.{k}.bias'] = m[k].weight, m[k].bias
        h = {'mlm_dense.weight': s.mlm_dense.weight, 'mlm_dense.bias': s.mlm_dense.bias, 'mlm_norm.weight': s.mlm_norm.weight,
             'mlm_norm.bias': s.mlm_norm.bias, 'mlm_output.bias': s.mlm_bias}
        return kv, t, h

def wordpiece_tokenizer_kv(w):
    tok = [t if i < 5 else t[2:] if t.startswith('##') and len(t) > 2 else '\u2581' + t for i, t in enumerate(w.tokens)]
    return [('tokenizer.ggml.model', STR, 'bert'), ('tokenizer.ggml.pre', STR, 'default'), ('tokenizer.ggml.tokens', ARR, (STR, tok)),
            ('tokenizer.ggml.token_type', ARR, (I32, [3] * 5 + [1] * (len(tok) - 5))), ('tokenizer.ggml.token_type_count', U32, 1),
            ('tokenizer.ggml.bos_token_id', U32, w.cls), ('tokenizer.ggml.cls_token_id', U32, w.cls), ('tokenizer.ggml.eos_token_id', U32, w.sep),
            ('tokenizer.ggml.seperator_token_id', U32, w.sep), ('tokenizer.ggml.padding_token_id', U32, w.pad),
            ('tokenizer.ggml.unknown_token_id', U32, w.unk), ('tokenizer.ggml.mask_token_id', U32, w.mask)]

def mlm_batches(w, chapters, n, ctx, seed):
    """[CLS] tokens [SEP]: windows starting at a sentence, one random length per batch; 30 % of the tokens are to be
    predicted: 80 % of these masked, 10 % random, 10 % kept. Targets are -100 elsewhere."""
    ids, starts = [], []
    for c in chapters:
        for snt in re.split(r'(?<=[.?!:;]) ', c): starts.append(len(ids)); ids += w.encode(snt)
    ids, g = torch.tensor(ids), torch.Generator().manual_seed(seed); starts = torch.tensor([k for k in starts if k < len(ids) - ctx])
    def next_batch():
        T = 16 + int((ctx - 17) * torch.rand((), generator=g) ** 2); rows = n * ctx // T
        k = starts[torch.randint(0, len(starts), (rows,), generator=g)]
        y = ids[k[:, None] + torch.arange(T)[None]]; r = torch.rand(y.shape, generator=g); q = torch.rand(y.shape, generator=g)
        x = torch.where((r < 0.3) & (q < 0.8), torch.tensor(w.mask), y)
        x = torch.where((r < 0.3) & (q > 0.9), torch.randint(5, len(w.tokens), y.shape, generator=g), x)
        y = torch.where(r < 0.3, y, torch.tensor(-100)); e = lambda v: torch.full((rows, 1), v)
        return torch.cat([e(w.cls), x, e(w.sep)], 1), torch.cat([e(-100), y, e(-100)], 1)
    return next_batch, len(ids)

def mlm_loss(model, x, y): k = y != -100; return F.cross_entropy(model.head(model.hidden(x)[k]), y[k])

def fixed_eval(model, loss, batches):
    """Mean loss over a fixed list of held-out batches, float32"""
    model.eval()
    with torch.no_grad(): v = sum(loss(model, *b).item() for b in batches) / len(batches)
    model.train(); return v

def train_bert(steps, batch=16, lr=1e-3):
    w = WordPiece(); torch.manual_seed(SEED); model = Bert(); tr, ev = corpus(); ctx = model.C['ctx']
    batches, ntok = mlm_batches(w, tr, batch, ctx, SEED); e, _ = mlm_batches(w, ev, batch, ctx, 7); held = [e() for _ in range(40)]
    def save(v):
        kv, t, h = model.gguf(); keep = ('position_embd.weight', 'token_types.weight')
        write_gguf(f'{OUT}/bert/model-f16.gguf', general_kv('bert', True) + kv + wordpiece_tokenizer_kv(w), arrays(t), True, keep)
        write_gguf(f'{OUT}/bert/mlm-head-f32.gguf', [('general.architecture', STR, 'bert-mlm-head'), ('general.license', STR, LICENCE),
            ('general.description', STR, 'logits = token_embd . LayerNorm(gelu_tanh(mlm_dense(hidden)), eps 1e-12) + mlm_output.bias')], arrays(h), False)
        torch.save(model.state_dict(), f'{DATA}/bert.pt')
        json.dump(dict(heldout_mlm_loss=v, heldout_mlm_ppl=math.exp(v), masked_fraction=0.3, parameters=sum(p.numel() for p in model.parameters()),
                       train_tokens=ntok, steps=steps, batch=batch, lr=lr), open(f'{DATA}/bert.json', 'w'))
    fit(model, mlm_loss, batches, steps, lr, lambda: fixed_eval(model, mlm_loss, held), save, warm=200, log=lambda m: print('bert', m, flush=True))

# ================================================================== t5
class T5(nn.Module):
    """T5 1.1: RMSNorm, no biases, no score scaling, gated tanh GELU, relative position bias of the first layer, separate output matrix"""
    C = dict(V=1024, d=128, L=2, h=4, dk=32, ff=256, ctx=256, eps=1e-6, bkt=32)
    def __init__(s):
        super().__init__(); c = s.C; d, i = c['d'], c['h'] * c['dk']; lin = lambda o, k: nn.Linear(k, o, bias=False); rms = lambda: RMSNorm(d, c['eps'])
        def attn(p): return {p + 'attn_norm': rms(), p + 'attn_q': lin(i, d), p + 'attn_k': lin(i, d), p + 'attn_v': lin(i, d), p + 'attn_o': lin(d, i)}
        def ffn(): return dict(ffn_norm=rms(), ffn_gate=lin(c['ff'], d), ffn_up=lin(c['ff'], d), ffn_down=lin(d, c['ff']))
        s.emb, s.out = nn.Embedding(c['V'], d), lin(c['V'], d)
        s.enc = nn.ModuleList(nn.ModuleDict({**attn(''), **ffn()}) for _ in range(c['L']))
        s.dec = nn.ModuleList(nn.ModuleDict({**attn(''), **attn('cross_'), **ffn()}) for _ in range(c['L']))
        s.enc_norm, s.dec_norm = rms(), rms(); s.rel = nn.ModuleDict(dict(enc=nn.Embedding(c['bkt'], c['h']), dec=nn.Embedding(c['bkt'], c['h'])))
        init(s, c['L'], ('attn_o', 'ffn_down')); s.out.weight.data *= 0.5
        for m in list(s.enc) + list(s.dec):
            for k in m:
                if k.endswith('attn_q'): m[k].weight.data /= math.sqrt(c['dk'])
        for n, both in (('enc', True), ('dec', False)): s.register_buffer('bucket_' + n, s.buckets(c['ctx'], c['bkt'], both))
    @staticmethod
    def buckets(n, nb, both):
        """bucket of key position minus query position, in the arithmetic of llama.cpp (maximum distance 128)"""
        r = np.arange(n)[None, :] - np.arange(n)[:, None]; b = np.zeros_like(r)
        if both: nb //= 2; b += (r > 0) * nb; r = abs(r)
        else: r = -np.minimum(r, 0)
        ex = nb // 2; big = np.log(np.maximum(r, 1).astype(np.float32) / np.float32(ex)).astype(np.float64) * (nb - ex) / math.log(128 / ex)
        return torch.tensor(b + np.where(r < ex, r, np.minimum(np.floor((ex + big).astype(np.float32)).astype(int), nb - 1)))
    def attend(s, m, p, x, src, bias):
        B, T, h = *x.shape[:2], s.C['h']; split = lambda y: y.view(B, y.shape[1], h, -1).transpose(1, 2)
        q, k, v = split(m[p + 'attn_q'](x)), split(m[p + 'attn_k'](src)), split(m[p + 'attn_v'](src))
        a = (q @ k.transpose(-1, -2)).float(); a = (a if bias is None else a + bias).softmax(-1)
        return m[p + 'attn_o']((a @ v).transpose(1, 2).flatten(2))
    def bias(s, side, T): return s.rel[side].weight[getattr(s, 'bucket_' + side)[:T, :T]].permute(2, 0, 1).float()
    def ffn(s, m, x): n = m['ffn_norm'](x); return x + m['ffn_down'](F.gelu(m['ffn_gate'](n), approximate='tanh') * m['ffn_up'](n))
    def encode(s, t):
        x = s.emb(t); b = s.bias('enc', t.shape[1])
        for m in s.enc: n = m['attn_norm'](x); x = x + s.attend(m, '', n, n, b); x = s.ffn(m, x)
        return s.enc_norm(x)
    def decode(s, mem, t):
        x = s.emb(t); T = t.shape[1]; b = s.bias('dec', T) + torch.full((T, T), -1e30).triu(1)
        for m in s.dec:
            n = m['attn_norm'](x); x = x + s.attend(m, '', n, n, b)
            x = x + s.attend(m, 'cross_', m['cross_attn_norm'](x), mem, None); x = s.ffn(m, x)
        return s.out(s.dec_norm(x)).float()
    def forward(s, src, tgt): return s.decode(s.encode(src), tgt)
    def gguf(s):
        c = s.C; a = 't5.'
        kv = [(a + 'context_length', U32, c['ctx']), (a + 'embedding_length', U32, c['d']), (a + 'block_count', U32, c['L']), (a + 'decoder_block_count', U32, c['L']), (a + 'vocab_size', U32, c['V']),
              (a + 'feed_forward_length', U32, c['ff']), (a + 'attention.head_count', U32, c['h']), (a + 'attention.key_length', U32, c['dk']), (a + 'attention.value_length', U32, c['dk']),
              (a + 'attention.layer_norm_epsilon', F32, c['eps']), (a + 'attention.layer_norm_rms_epsilon', F32, c['eps']),
              (a + 'attention.relative_buckets_count', U32, c['bkt']), (a + 'decoder_start_token_id', U32, 0)]
        t = {'token_embd.weight': s.emb.weight}
        for side, blk, norm in (('enc', s.enc, s.enc_norm), ('dec', s.dec, s.dec_norm)):
            for i, m in enumerate(blk):
                if i == 0: t[f'{side}.blk.0.attn_rel_b.weight'] = s.rel[side].weight
                for k in m: t[f'{side}.blk.{i}.{k}.weight'] = m[k].weight
            t[f'{side}.output_norm.weight'] = norm.weight
        t['output.weight'] = s.out.weight
        return kv, t

def t5_tokenizer_kv(sp):
    tok, score, typ = sp_tables(sp)
    return [('tokenizer.ggml.model', STR, 't5'), ('tokenizer.ggml.pre', STR, 'default'), ('tokenizer.ggml.tokens', ARR, (STR, tok)),
            ('tokenizer.ggml.scores', ARR, (F32, score)), ('tokenizer.ggml.token_type', ARR, (I32, typ)),
            ('tokenizer.ggml.eos_token_id', U32, 1), ('tokenizer.ggml.unknown_token_id', U32, 2), ('tokenizer.ggml.padding_token_id', U32, 0),
            ('tokenizer.ggml.add_bos_token', BOOL, False), ('tokenizer.ggml.add_eos_token', BOOL, True),
            ('tokenizer.ggml.add_space_prefix', BOOL, True), ('tokenizer.ggml.remove_extra_whitespaces', BOOL, True)]

def span_batches(sp, chapters, n, seed):
    """Span corruption: windows that start at a sentence, one random length and noise density (15 to 50 %) per batch,
    spans of 3 tokens on average. src: text with spans replaced by sentinels + </s>; tgt: sentinel span ... last sentinel </s>."""
    ids, starts = [], []
    for c in chapters:
        for snt in re.split(r'(?<=[.?!:;]) ', c): starts.append(len(ids)); ids += sp.encode(snt)
    g = np.random.default_rng(seed); starts = [k for k in starts if k < len(ids) - 160]; S = [sp.piece_to_id(f'<extra_id_{i}>') for i in range(32)]
    def cuts(total, parts): return np.diff(np.concatenate([[0], np.sort(g.choice(np.arange(1, total), parts - 1, replace=False)), [total]]))
    def next_batch():
        T = int(g.integers(20, 160)); noise = max(2, round(g.uniform(0.15, 0.5) * T)); k = max(1, round(noise / 3)); X, Y = [], []
        for _ in range(n * 160 // T):
            a = int(starts[g.integers(len(starts))]); w = ids[a:a + T]; x, y, p = [], [], 0
            gap, span = cuts(T - noise + 1, k + 1), cuts(noise, k); gap[0] -= 1      # the first gap may be empty
            for j in range(k):
                x += w[p:p + gap[j]] + [S[j]]; p += gap[j]; y += [S[j]] + w[p:p + span[j]]; p += span[j]
            X.append(x + w[p:] + [1]); Y.append([0] + y + [S[k], 1])
        Y = torch.tensor(Y); return torch.tensor(X), Y[:, :-1], Y[:, 1:]
    return next_batch, len(ids)

def t5_loss(model, src, tin, tout): return F.cross_entropy(model(src, tin).flatten(0, 1), tout.flatten())

def train_t5(steps, batch=16, lr=3e-3):
    sp = sentencepiece_model('unigram'); torch.manual_seed(SEED); model = T5(); tr, ev = corpus()
    batches, ntok = span_batches(sp, tr, batch, SEED); e, _ = span_batches(sp, ev, batch, 7); held = [e() for _ in range(40)]
    def save(v):
        kv, t = model.gguf()
        write_gguf(f'{OUT}/t5/model-f16.gguf', general_kv('t5', True) + kv + t5_tokenizer_kv(sp), arrays(t), True, tuple(k for k in t if 'attn_rel_b' in k))
        torch.save(model.state_dict(), f'{DATA}/t5.pt')
        json.dump(dict(heldout_span_loss=v, heldout_span_ppl=math.exp(v), parameters=sum(p.numel() for p in model.parameters()),
                       train_tokens=ntok, steps=steps, batch=batch, lr=lr), open(f'{DATA}/t5.json', 'w'))
    fit(model, t5_loss, batches, steps, lr, lambda: fixed_eval(model, t5_loss, held), save, warm=200, log=lambda m: print('t5', m, flush=True))

def train_gpt2(steps):
    b = ByteBPE(); torch.manual_seed(SEED)
    causal('gpt2', Causal('gpt2', 4), b.encode, [b.eot], [], bpe_tokenizer_kv(b), steps, 8, 3e-3)

def train_bloom(steps):
    b = ByteBPE(); torch.manual_seed(SEED)
    causal('bloom', Causal('bloom', 3), b.encode, [b.eot], [], bpe_tokenizer_kv(b), steps, 8, 3e-3)

if __name__ == '__main__': globals()['train_' + sys.argv[1]](int(sys.argv[2]))
