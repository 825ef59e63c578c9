# SPDX-License-Identifier: BSD-3-Clause
"""Shared parts of the demo-model trainer: corpus, tokenizer trainers, GGUF v3 writer, training loop."""
import os, re, json, struct, math, time, subprocess, collections
import numpy as np
import torch

SEED = 1611
HERE = os.path.dirname(os.path.abspath(__file__))
DATA, OUT = f'{HERE}/data', f'{HERE}/out'

# ------------------------------------------------------------------ corpus
def corpus():
    """King James Bible out of Debian's bible-kjv (text in bible-kjv-text): one string per chapter, the verses
    joined by blanks. Every 20th chapter is held out. Returns (train chapters, held-out chapters)."""
    os.makedirs(DATA, exist_ok=True)
    raw = f'{DATA}/kjv.raw'
    if not os.path.exists(raw):
        text = subprocess.run(['bible', '-f', 'Gen1:1-Rev22:21'], stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
        open(raw, 'wb').write(text)
    chap = collections.OrderedDict()
    for line in open(raw, encoding='ascii'):
        ref, verse = line.rstrip('\n').split(' ', 1)
        chap.setdefault(ref.split(':')[0], []).append(' '.join(verse.split()))
    chap = [' '.join(v) for v in chap.values()]
    assert len(chap) == 1189
    return [c for i, c in enumerate(chap) if i % 20 != 10], [c for i, c in enumerate(chap) if i % 20 == 10]

# ------------------------------------------------------------------ tokenizers
def sentencepiece_model(kind):
    """kind 'bpe': llama type (byte fallback, 1536 pieces); 'unigram': T5 type with 32 sentinels."""
    import sentencepiece as spm
    name = f'{DATA}/sp-{kind}'
    if not os.path.exists(name + '.model'):
        with open(f'{DATA}/train-lines.txt', 'w') as f:
            for c in corpus()[0]:
                for s in re.split(r'(?<=[.?!]) ', c): f.write(s + '\n')
        o = dict(input=f'{DATA}/train-lines.txt', model_prefix=name, model_type=kind, character_coverage=1.0,
                 normalization_rule_name='identity', num_threads=1, max_sentence_length=16384, minloglevel=1)
        if kind == 'bpe':
            o.update(vocab_size=1536, byte_fallback=True, remove_extra_whitespaces=False, split_digits=True,
                     unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
        else:
            o.update(vocab_size=1024, unk_id=2, bos_id=-1, eos_id=1, pad_id=0,
                     user_defined_symbols=[f'<extra_id_{i}>' for i in range(32)])
        spm.SentencePieceTrainer.train(**o)
    return spm.SentencePieceProcessor(model_file=name + '.model')

def sp_tables(sp):
    """tokens, scores and llama.cpp token types (1 normal, 2 unknown, 3 control, 4 user defined, 6 byte)"""
    n = sp.get_piece_size()
    typ = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else
           4 if sp.id_to_piece(i).startswith('<extra_id_') else 1 for i in range(n)]
    return [sp.id_to_piece(i) for i in range(n)], [sp.get_score(i) for i in range(n)], typ

def byte_to_unicode():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    m, k = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in m: m[b] = chr(256 + k); k += 1
    return m
B2U = byte_to_unicode()
GPT2_SPLIT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:_|[^\s\w])+|\s+(?!\S)|\s+")

def learn_merges(words, n, glue=lambda a, b: a + b):
    """words: Counter of symbol tuples. n most frequent pair merges (ties: lexicographic order)."""
    words = [[list(w), c] for w, c in sorted(words.items())]
    cnt, where = collections.Counter(), collections.defaultdict(set)
    def add(i, sign):
        w, c = words[i]
        for p in zip(w, w[1:]): cnt[p] += sign * c; where[p].add(i)
    for i in range(len(words)): add(i, 1)
    merges = []
    while len(merges) < n:
        p = min(cnt, key=lambda p: (-cnt[p], p))
        if cnt[p] < 2: break
        merges.append(p); new = glue(*p)
        for i in sorted(where[p]):
            w = words[i][0]
            if p not in zip(w, w[1:]): continue
            add(i, -1); k = 0
            while k < len(w) - 1:
                if (w[k], w[k + 1]) == p: w[k:k + 2] = [new]
                k += 1
            add(i, 1)
        where.pop(p, None); cnt = +cnt if len(merges) % 50 == 0 else cnt
    return merges

class ByteBPE:
    """GPT-2 byte-level BPE, 1536 tokens: 256 bytes, merges, <|endoftext|>"""
    def __init__(s, size=1536):
        path = f'{DATA}/bpe.json'
        if not os.path.exists(path):
            words = collections.Counter(w for c in corpus()[0] for w in GPT2_SPLIT.findall(c))
            words = {tuple(B2U[b] for b in w.encode()): c for w, c in words.items()}
            json.dump(learn_merges(words, size - 257), open(path, 'w'))
        s.merges = [tuple(m) for m in json.load(open(path))]
        s.tokens = [B2U[b] for b in range(256)] + [a + b for a, b in s.merges] + ['<|endoftext|>']
        s.eot = len(s.tokens) - 1
        s.id = {t: i for i, t in enumerate(s.tokens)}; s.rank = {m: i for i, m in enumerate(s.merges)}; s.cache = {}
        s.u2b = {u: b for b, u in B2U.items()}
        assert len(s.id) == len(s.tokens)
    def word(s, w):
        if w not in s.cache:
            x = [B2U[b] for b in w.encode()]
            while len(x) > 1:
                r, k = min((s.rank.get(p, 1 << 30), k) for k, p in enumerate(zip(x, x[1:])))
                if r == 1 << 30: break
                x[k:k + 2] = [x[k] + x[k + 1]]
            s.cache[w] = [s.id[t] for t in x]
        return s.cache[w]
    def encode(s, text): return [t for w in GPT2_SPLIT.findall(text) for t in s.word(w)]
    def decode(s, ids): return bytes(s.u2b[ch] for i in ids if i != s.eot for ch in s.tokens[i]).decode('utf-8', 'replace')

class WordPiece:
    """lower-case WordPiece, 2048 entries; greedy longest match as in BERT"""
    SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    def __init__(s, size=2048):
        path = f'{DATA}/wordpiece.json'
        if not os.path.exists(path):
            words = collections.Counter(w for c in corpus()[0] for w in s.split(c))
            seqs = {tuple([w[0]] + ['##' + ch for ch in w[1:]]): c for w, c in words.items()}
            alpha = sorted(set(ch for w in seqs for ch in w) | set('0123456789!"#$%&\'()*+,-./:;<=>?@[]_')
                           | set('##' + ch for ch in 'abcdefghijklmnopqrstuvwxyz0123456789'))
            toks, seen = s.SPECIAL + alpha, set(alpha)
            for a, b in learn_merges(seqs, size * 2, lambda a, b: a + b[2:]):
                if a + b[2:] not in seen and len(toks) < size: toks.append(a + b[2:]); seen.add(a + b[2:])
            json.dump(toks, open(path, 'w'))
        s.tokens = json.load(open(path)); s.id = {t: i for i, t in enumerate(s.tokens)}
        s.pad, s.unk, s.cls, s.sep, s.mask = range(5); s.cache = {}
    @staticmethod
    def split(text): return re.findall(r'[^\W_]+|[^\w\s]|_', text.lower())
    def word(s, w):
        if w not in s.cache:
            out, k = [], 0
            while k < len(w):
                for e in range(len(w), k, -1):
                    t = ('##' if k else '') + w[k:e]
                    if t in s.id: out.append(s.id[t]); k = e; break
                else: out = [s.unk]; break
            s.cache[w] = out
        return s.cache[w]
    def encode(s, text):
        out = []
        for part in re.split(r'(\[MASK\])', text):
            if part == '[MASK]': out.append(s.mask)
            else: out += [t for w in s.split(part) for t in s.word(w)]
        return out

# ------------------------------------------------------------------ GGUF v3 writer
U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9
def _s(x): b = x.encode(); return struct.pack('<Q', len(b)) + b
def _val(t, v):
    if t == STR: return _s(v)
    if t == ARR: et, xs = v; return struct.pack('<IQ', et, len(xs)) + b''.join(_val(et, x) for x in xs)
    return struct.pack({U32: '<I', I32: '<i', F32: '<f', BOOL: '<?'}[t], v)
def write_gguf(path, kv, tensors, f16=True, keep32=(), align=32):
    """tensors: name -> float array. With f16 every matrix is stored as F16 unless its name is in keep32."""
    head, off, blobs = [struct.pack('<IIQQ', 0x46554747, 3, len(tensors), len(kv))], 0, []
    for k, t, v in kv: head.append(_s(k) + struct.pack('<I', t) + _val(t, v))
    for n, a in tensors.items():
        a = np.ascontiguousarray(a, dtype=np.float32); half = f16 and a.ndim > 1 and n not in keep32
        ne = a.shape[::-1]                                   # GGUF lists the fastest dimension first
        head.append(_s(n) + struct.pack('<I', len(ne)) + b''.join(struct.pack('<Q', x) for x in ne) + struct.pack('<IQ', 1 if half else 0, off))
        b = (a.astype(np.float16) if half else a).tobytes(); b += b'\0' * (-len(b) % align)
        blobs.append(b); off += len(b)
    h = b''.join(head); h += b'\0' * (-len(h) % align)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + '.tmp', 'wb') as f: f.write(h); [f.write(b) for b in blobs]
    os.replace(path + '.tmp', path)

LICENCE = 'CC0-1.0'
def general_kv(arch, f16):
    return [('general.architecture', STR, arch), ('general.type', STR, 'model'), ('general.name', STR, f'kjv-demo-{arch}'),
            ('general.description', STR, 'Tiny demo model trained from scratch on the King James Bible (Debian bible-kjv-text 4.38)'),
            ('general.license', STR, LICENCE), ('general.file_type', U32, 1 if f16 else 0), ('general.quantization_version', U32, 2)]

# ------------------------------------------------------------------ training loop
def fit(model, loss_fn, batches, steps, lr, evaluate, save, warm=100, wd=0.1, every=600, log=print):
    """AdamW, linear warm-up and cosine decay to lr/50, bf16 autocast, gradient clipping at 1."""
    mats = [p for p in model.parameters() if p.dim() > 1]; vecs = [p for p in model.parameters() if p.dim() < 2]
    opt = torch.optim.AdamW([dict(params=mats, weight_decay=wd), dict(params=vecs, weight_decay=0.0)], lr=lr, betas=(0.9, 0.98), eps=1e-8)
    log(f'{sum(p.numel() for p in model.parameters())} parameters'); t0 = time.time(); run = []
    for step in range(1, steps + 1):
        r = step / warm if step < warm else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        for g in opt.param_groups: g['lr'] = lr * r
        with torch.autocast('cpu', dtype=torch.bfloat16): loss = loss_fn(model, *batches())
        opt.zero_grad(set_to_none=True); loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); opt.step(); run.append(loss.item())
        if step % 100 == 0: log(f'step {step} loss {np.mean(run[-100:]):.4f} {time.time() - t0:.0f}s')
        if step % every == 0 or step == steps:
            v = evaluate(); save(v); log(f'step {step} held-out loss {v:.4f} ppl {math.exp(v):.2f} {time.time() - t0:.0f}s')
    return v

def stream_batches(ids, n, ctx, seed):
    """Random windows of ctx+1 tokens, each starting anywhere in the stream of chapters"""
    ids = torch.tensor(ids); g = torch.Generator().manual_seed(seed)
    def next_batch():
        k = torch.randint(0, len(ids) - ctx - 1, (n,), generator=g)
        x = torch.stack([ids[i:i + ctx + 1] for i in k.tolist()]); return x[:, :-1], x[:, 1:]
    return next_batch

def stream_eval(model, ids, ctx, n=8):
    """Mean loss over consecutive windows of ctx tokens of the held-out stream, float32"""
    model.eval(); ids = torch.tensor(ids); w = (len(ids) - 1) // ctx; s, c = 0.0, 0
    with torch.no_grad():
        for b in range(0, w, n):
            x = torch.stack([ids[i * ctx:i * ctx + ctx + 1] for i in range(b, min(w, b + n))])
            s += torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten(), reduction='sum').item(); c += x[:, 1:].numel()
    model.train(); return s / c
