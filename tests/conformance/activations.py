#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""activations.py: every stored activation of two trained models, not only their results.

stories260K: the nodes that llama.cpp evaluated for "Once upon a time", of which its log has the
sum and the corner values. gpt2-nano-sort: all activations of a PyTorch run over three sequences
(with the weights, which come as JSON, in a GGUF made here), and that the model sorts.
`penstock eval --dump` writes the result of each of our operations. What lies inside one of
them (scores, softmax, a norm before its weight) is computed here from the results around it.
"""
import array
import base64
import itertools
import json
import math
import os
import random
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import gguf
import harness as h

DEVICES = ('cpu-ref', 'cpu')
STORIES = ('models', 'llama2-stories260K')
STORIES_LOG = 'ref_llamacpp_v0.5.0_activations_once_upon_a_time.txt'
SORT = ('models', 'gpt2-nano-sort')
# The log prints four decimals, and sums in float32 over up to 1280 values of size 1.
LOG_VALUE, LOG_SUM, LOG_SUM_RELATIVE = 1.5e-4, 2e-3, 1e-5
# PyTorch's float32 against ours: a hundred roundings of values of about 10.
SORT_MAX_ABS = 1e-4


class Dump:
    """The results of all operations of one run, by the order in which they ran."""

    def __init__(self, model, tokens, device):
        with tempfile.TemporaryDirectory() as folder:
            self.result = h.evaluate(model, tokens, '--device', device, '--dump', folder)
            self.steps = []
            for name in sorted(os.listdir(folder)):
                if name.endswith('.f32') and name[0].isdigit():
                    _, kind, block, tensor = (name[:-4].split('-', 3) + [''])[:4]
                    self.steps.append((kind, int(block), tensor, h.read_f32(os.path.join(folder, name))))
        self.n_tokens = len(tokens)

    def find(self, kind, block, tensor='', nth=0):
        """The nth result of an operation in a block (with a weight of this name)."""
        found = [values for k, b, t, values in self.steps if k == kind and b == block and tensor in t]
        if nth >= len(found):
            raise h.Failed(f'no result number {nth} of {kind} {tensor} in block {block}')
        return found[nth]


def rows(values, n):
    """A flat array as n rows."""
    width = len(values) // n
    return [values[i * width:(i + 1) * width] for i in range(n)]


def heads(row, n):
    """A row as n heads."""
    return rows(row, n)


def scores(q, k, n_tokens, n_heads, n_kv):
    """Products [head][query][key] of all queries and keys, causal or not."""
    q = [heads(row, n_heads) for row in rows(q, n_tokens)]
    k = [heads(row, n_kv) for row in rows(k, n_tokens)]
    share = n_heads // n_kv
    return [[[math.fsum(map(lambda a, b: a * b, q[i][head], k[j][head // share])) for j in range(n_tokens)]
             for i in range(n_tokens)] for head in range(n_heads)]


def causal_softmax(row, last, scale):
    """Probabilities of the first `last` + 1 scores, 0 for the rest."""
    top = max(row[:last + 1]) * scale
    weights = [math.exp(x * scale - top) for x in row[:last + 1]]
    total = math.fsum(weights)
    return [w / total for w in weights] + [0.0] * (len(row) - last - 1)


def flatten(values):
    """Nested lists as one."""
    return [x for item in values for x in flatten(item)] if isinstance(values[0], (list, array.array)) else list(values)


# ---- stories260K ---------------------------------------------------------------------------------

NODE = re.compile(r'^common_debug_cb_eval: *(.+?) = \(f32\) *(\w+)\((.*)\) = \{(\d+), (\d+), (\d+), (\d+)\}$')
NUMBER = re.compile(r'-?\d+\.\d+')
N_LAYERS, N_HEADS, N_KV, N_KEYS, EPS = 5, 8, 4, 256, 1e-5
# No arithmetic: other views of the same numbers, or copies into the cache.
VIEWS = ('RESHAPE', 'VIEW', 'PERMUTE', 'SET_ROWS')


def read_log():
    """[(name, operation, arguments, shape, {index: value}, sum)]"""
    nodes, lines = [], open(h.data(*STORIES, STORIES_LOG), encoding='utf-8').read().splitlines()
    for at, line in enumerate(lines):
        m = NODE.match(line)
        if not m:
            continue
        shape, numbers, total = tuple(map(int, m.groups()[3:])), [], None
        for text in lines[at + 1:]:
            if text.strip().startswith('sum ='):
                total = float(text.split('=')[1])
                break
            numbers += map(float, NUMBER.findall(text))
        # Of a dimension of more than 6 the log has the first three and the last three.
        shown = [range(n) if n <= 6 else [0, 1, 2, n - 3, n - 2, n - 1] for n in reversed(shape)]
        places = list(itertools.product(*shown))
        if len(places) != len(numbers):
            raise h.Failed(f'{m.group(1)}: {len(numbers)} numbers in the log, expected {len(places)}')
        nodes.append((m.group(1), m.group(2), m.group(3), shape, dict(zip(places, numbers)), total))
    return nodes


def rms(values, n):
    """Rows divided by their root mean square."""
    return flatten([[x / math.sqrt(math.fsum(v * v for v in row) / len(row) + EPS) for x in row] for row in rows(values, n)])


def attention(dump, block):
    """kq, softmax and kqv as the log has them: [head][query][key of 256], [head][query][element]."""
    n = dump.n_tokens
    q, k = dump.find('rope', block, nth=0), dump.find('rope', block, nth=1)
    v = [heads(row, N_KV) for row in rows(dump.find('matmul', block, 'attn_v'), n)]
    kq = scores(q, k, n, N_HEADS, N_KV)
    scale = 1 / math.sqrt(len(q) // n // N_HEADS)
    soft = [[causal_softmax(row, i, scale) for i, row in enumerate(head)] for head in kq]
    kqv = [[[math.fsum(p * v[j][head * N_KV // N_HEADS][e] for j, p in enumerate(row)) for e in range(len(v[0][0]))]
            for row in soft[head]] for head in range(N_HEADS)]
    pad = [0.0] * (N_KEYS - n)
    return ([[row + pad for row in head] for head in kq], [[row + pad for row in head] for head in soft], kqv)


def ours(dump, name, operation, arguments):
    """Our numbers for a node of the log, None for one that only moves numbers."""
    stem, _, block = name.partition('-')
    block = int(block) if block.isdigit() else 0
    if operation in VIEWS or operation == 'GET_ROWS' and stem != 'embd':
        return None
    if operation == 'RMS_NORM':
        source = arguments.split('{')[0]
        return rms(ours(dump, source, '', ''), dump.n_tokens)
    if stem in ('kq', 'kq_soft_max', 'kqv'):
        return flatten(attention(dump, block)[('kq', 'kq_soft_max', 'kqv').index(stem)])
    if stem in ('Qcur', 'Kcur') and operation == 'ROPE':
        return dump.find('rope', block, nth='QK'.index(stem[0]))
    place = {'embd': ('embed', 0), 'attn_norm': ('norm', 0), 'kqv_out': ('attn', 0), 'ffn_inp': ('add', 0), 'ffn_norm': ('norm', 1),
             'ffn_swiglu': ('glu', 0), 'l_out': ('add', 1)}.get(stem)
    if place:
        return dump.find(place[0], block, nth=place[1])
    tensor = {'Qcur': 'attn_q', 'Kcur': 'attn_k', 'Vcur': 'attn_v', 'attn_out': 'attn_output', 'ffn_gate': 'ffn_gate', 'ffn_up': 'ffn_up',
              'ffn_out': 'ffn_down', 'result_output': 'output.weight', 'result_norm': 'output_norm'}.get(stem)
    if tensor is None:
        raise h.Failed(f'{name}: a node of the log that this test does not know')
    found = [values for kind, b, t, values in dump.steps if tensor in t and (b == block or stem.startswith('result'))]
    if stem == 'result_output':
        found = [dump.result.logits]
    return found[-1]


def check_node(dump, node):
    """One node against ours: the values that the log shows, and their sum."""
    name, operation, arguments, shape, shown, total = node
    values = ours(dump, name, operation, arguments)
    if values is None:
        return 0
    count = math.prod(shape)
    # Behind the last block's attention the log has the last token alone.
    values = values[len(values) - count:]
    for (i3, i2, i1, i0), want in shown.items():
        got = values[((i3 * shape[2] + i2) * shape[1] + i1) * shape[0] + i0]
        if not abs(got - want) <= LOG_VALUE:
            raise h.Failed(f'{name} ({operation}) at {(i0, i1, i2, i3)}: {got}, expected {want}')
    got = math.fsum(values)
    if not abs(got - total) <= LOG_SUM + LOG_SUM_RELATIVE * abs(total):
        raise h.Failed(f'{name} ({operation}): the sum is {got}, expected {total}')
    return 1


def check_stories(device):
    """All nodes of the log, and that none was forgotten."""
    nodes = read_log()
    dump = Dump(h.data(*STORIES, 'stories260K.gguf'), [1, 403, 407, 261, 378], device)
    compared = sum(check_node(dump, node) for node in nodes)
    expected = sum(1 for node in nodes if node[1] not in VIEWS and (node[1] != 'GET_ROWS' or node[0] == 'embd'))
    if compared != expected or compared < 20 * N_LAYERS:
        raise h.Failed(f'{compared} nodes were compared, expected {expected}')
    return f'{compared} nodes of {len(nodes)}, the others only move numbers'


# ---- gpt2-nano-sort ------------------------------------------------------------------------------

def decode(tensor):
    """(shape, bytes of float32) of a tensor of the JSON files."""
    return tensor['shape'], base64.b64decode(tensor['data'])


def write_sort_model(path):
    """The JSON weights as a GGUF. Linear weights are stored [out, in], which is GGUF's order too."""
    with open(h.data(*SORT, 'gpt-nano-sort-model.json'), encoding='utf-8') as f:
        source = json.load(f)
    config, tensors = source['config'], {}
    names = {'ln_1': 'attn_norm', 'attn.c_attn': 'attn_qkv', 'attn.c_proj': 'attn_output', 'ln_2': 'ffn_norm', 'mlp.c_fc': 'ffn_up',
             'mlp.c_proj': 'ffn_down'}

    def add(name, key):
        shape, raw = decode(source[key])
        tensors[name] = (shape[::-1], raw)
    add('token_embd.weight', 'transformer.wte.weight')
    add('position_embd.weight', 'transformer.wpe.weight')
    for block in range(config['n_layer']):
        for old, new in names.items():
            for part in ('weight', 'bias'):
                add(f'blk.{block}.{new}.{part}', f'transformer.h.{block}.{old}.{part}')
    add('output_norm.weight', 'transformer.ln_f.weight')
    add('output_norm.bias', 'transformer.ln_f.bias')
    add('output.weight', 'lm_head.weight')
    number = {'context_length': config['block_size'], 'embedding_length': config['n_embd'], 'block_count': config['n_layer'],
              'feed_forward_length': 4 * config['n_embd'], 'attention.head_count': config['n_head'], 'vocab_size': config['vocab_size']}
    keys = [('general.architecture', gguf.STRING, b'gpt2'), ('tokenizer.ggml.model', gguf.STRING, b'no_vocab'),
            ('gpt2.attention.layer_norm_epsilon', gguf.F32, 1e-5)]
    gguf.write_f32(path, keys + [(f'gpt2.{name}', gguf.U32, value) for name, value in number.items()], tensors)


def sort_activations(dump, n_heads):
    """Ours by the names of the file, each [token, ...] or [head, token, ...] as there."""
    n, q, k, v = dump.n_tokens, *(dump.find('matmul', 0, 'attn_qkv', nth) for nth in range(3))
    by_head = {name: [[heads(row, n_heads)[head] for row in rows(values, n)] for head in range(n_heads)]
               for name, values in (('q', q), ('k', k), ('v', v))}
    scale = 1 / math.sqrt(len(q) // n // n_heads)
    att = scores(q, k, n, n_heads, n_heads)
    logits = rows(dump.result.logits, n)
    named = {
        'x': dump.find('embed', 0), 'ln1': dump.find('norm', 0), 'y': dump.find('attn', 0), 'yProj': dump.find('matmul', 0, 'attn_output'),
        'qkv': [list(a) + list(b) + list(c) for a, b, c in zip(rows(q, n), rows(k, n), rows(v, n))],
        'att': [[[x * scale if j <= i else -math.inf for j, x in enumerate(row)] for i, row in enumerate(head)] for head in att],
        'attSm': [[causal_softmax(row, i, scale) for i, row in enumerate(head)] for head in att],
        'attnResid': dump.find('add', 0), 'ln2': dump.find('norm', 0, nth=1), 'fc': dump.find('matmul', 0, 'ffn_up'),
        'gelu': dump.find('act', 0), 'mlp': dump.find('matmul', 0, 'ffn_down'), 'mlpResid': dump.find('add', 0, nth=1),
        'lm_head': logits, 'probs': [causal_softmax(row, len(row) - 1, 1) for row in logits],
        'ln_f': [values for kind, _, tensor, values in dump.steps if 'output_norm' in tensor][-1],
        **{f'block{block}': dump.find('add', block, nth=1) for block in range(3)}, **by_head}
    named['qkv'] = flatten(named['qkv'])
    return {name: flatten(list(values)) for name, values in named.items()}


def check_sort_activations(model, device):
    """Each stored activation of each of the three sequences."""
    with open(h.data(*SORT, 'gpt-nano-sort-t0-partials.json'), encoding='utf-8') as f:
        stored = json.load(f)
    config = stored.pop('config')
    shape, raw = decode(stored.pop('idx'))
    # Of weights alone, not of a sequence: they are part of x.
    del stored['tok_emb'], stored['pos_emb']
    worst = 0
    for index, tokens in enumerate(rows([int(x) for x in h.to_f32(raw)], shape[0])):
        mine = sort_activations(Dump(model, tokens, device), config['n_head'])
        for name, tensor in stored.items():
            want = rows(h.to_f32(decode(tensor)[1]), shape[0])[index]
            got = mine.get(name)
            if got is None or len(got) != len(want):
                raise h.Failed(f'{name}: {len(got or [])} numbers, expected {len(want)}')
            far = max(abs(a - b) if a != b else 0 for a, b in zip(got, want))
            worst = max(worst, far)
            if not far <= SORT_MAX_ABS:
                raise h.Failed(f'{name} of sequence {index}: off by {far:.2e}, expected at most {SORT_MAX_ABS}')
    return f'{len(stored)} activations of {shape[0]} sequences, max_abs {worst:.1e}'


def check_sorts(model, device):
    """Six letters in, the same in order out."""
    chance = random.Random(6)
    inputs = [[chance.randrange(3) for _ in range(6)] for _ in range(10 if h.SLOWER > 1 else 60)]
    for letters in inputs:
        got = h.evaluate(model, letters, '--device', device, greedy=6).greedy
        if got != sorted(letters):
            raise h.Failed(f'{letters} became {got}')
    return f'{len(inputs)} sequences of 6'


def main():
    tap = h.Tap()
    for device in DEVICES:
        tap.check(f'stories260K {device} activations', check_stories, device)
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, 'sort.gguf')
        for device in DEVICES:
            def activations():
                write_sort_model(model)
                return check_sort_activations(model, device)

            def sorts():
                h.data(*SORT)
                return check_sorts(model, device)
            tap.check(f'gpt2-nano-sort {device} activations', activations)
            tap.check(f'gpt2-nano-sort {device} sorts', sorts)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
