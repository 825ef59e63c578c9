#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""shapes.py: every family in other shapes than those there are references of.

Each float case's header is given other numbers of heads, head sizes, widths and vocabulary (seeded), and
random weights. cpu-ref, which the conformance cases hold to independent numbers and which
knows no special shape, is the reference here: cpu must agree with it at once, one token at a
time, over stages, with each instruction set, and with a KV cache in F16 and Q8_0.
"""
import array
import math
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import gguf
import harness as h
from cases import CASES, ISAS

SEED = 4711
ROUNDS = 1 if h.SLOWER > 1 else 2
# Families without rotary embedding.
ROPELESS = (b'bert', b'bloom', b'gpt2', b'mpt', b'starcoder', b't5', b't5encoder')
LIMIT = {'max_abs': 2e-3, 'nmse': 1e-8}


class Shape:
    """Old and new sizes of a model."""

    def __init__(self, head, chance):
        self.head = head
        arch = next(value for key, _, value in head.keys if key == b'general.architecture')
        self.prefix = arch + b'.'
        self.n_tokens = 0
        d, heads = self.get('embedding_length'), self.get('attention.head_count')
        kv, own = self.get('attention.head_count_kv') or heads, self.get('attention.key_length')
        self.vocab, hd, ff = head_rows(head), own or d // heads, self.get('feed_forward_length')
        self.rules = []
        self.choose(chance, d, heads, kv, hd, own, ff)

    def get(self, name):
        """A key of the architecture, 0 where there is none."""
        return next((value for key, _, value in self.head.keys if key == self.prefix + name.encode()), 0)

    def put(self, name, value):
        """Changes a key that is there."""
        for key in self.head.keys:
            if key[0] == self.prefix + name.encode():
                key[2] = value

    def choose(self, chance, d, heads, kv, hd, own, ff):
        """New sizes, as free as the family is."""
        rotated = self.get('rope.dimension_count')
        new_kv = kv if kv in (1, heads) else chance.choice((1, 2, 3))
        new_heads = new_kv * chance.choice((1, 2, 3, 5)) if kv != heads else chance.choice((1, 2, 3, 5, 7))
        new_kv = new_heads if kv == heads else new_kv
        # Rotated elements come in pairs; without rotation any size will do.
        rotates = self.prefix[:-1] not in ROPELESS
        new_hd = chance.choice((6, 10, 14, 16, 22, 34, 66) if rotates else (5, 7, 16, 33, 65))
        new_d = chance.choice((17, 31, 47, 64, 70)) if own else new_heads * new_hd
        new_ff, new_vocab = chance.choice((1, 19, 33, 64, 97)), chance.choice((7, 33, 64, 131))
        new_rotated = max(2, rotated * new_hd // hd // 2 * 2) if rotated else 0
        qkv, new_qkv = (heads + 2 * kv) * hd, (new_heads + 2 * new_kv) * new_hd
        factors, new_factors = (rotated or hd) // 2, (new_rotated or new_hd) // 2
        width, q, k, v = (d, new_d), (heads * hd, new_heads * new_hd), (kv * hd, new_kv * new_hd), (self.vocab, new_vocab)
        inner = (ff, new_ff), (2 * ff, 2 * new_ff), width
        # Of each dimension what it may be, by the tensor's name, because different sizes may be equal.
        self.rules = [
            ('_norm', (width, q, k, (hd, new_hd)), ((heads, new_heads), (kv, new_kv))), ('attn_rel_b', ((heads, new_heads),), ()),
            ('attn_qkv.weight', (width,), ((qkv, new_qkv),)), ('attn_qkv.bias', ((qkv, new_qkv),)),
            ('attn_q.weight', (width,), (q,)), ('attn_q.bias', (q,)), ('attn_k.weight', (width,), (k,)), ('attn_k.bias', (k,)),
            ('attn_v.weight', (width,), (k,)), ('attn_v.bias', (k,)), ('attn_output.bias', (width,)), ('attn_o', (q,), (width,)), ('ffn_gate_inp', (width,), ()),
            ('ffn_down.weight', inner[:1], (width,)), ('ffn_down_exps', inner[:1], (width,), ()), ('ffn_down.bias', (width,)),
            ('_exps', (width,), inner[:1], ()), ('ffn_up.bias', inner), ('ffn_gate.bias', inner), ('ffn_', (width,), inner), ('token_embd', (width,), (v,)),
            ('output.weight', (width,), (v,)), ('output.bias', (v,)), ('position_embd', (width,), ()), ('token_types', (width,), ()),
            ('rope_f', ((factors, new_factors),))]
        for name, value in (('embedding_length', new_d), ('attention.head_count', new_heads), ('attention.head_count_kv', new_kv),
                            ('attention.key_length', new_hd), ('attention.value_length', new_hd), ('feed_forward_length', new_ff),
                            ('rope.dimension_count', new_rotated), ('vocab_size', new_vocab)):
            self.put(name, value)
        self.text = f'd {new_d}, {new_heads}/{new_kv} heads of {new_hd}, ff {new_ff}, vocabulary {new_vocab}, rotated {new_rotated}'
        self.new_vocab = new_vocab

    def dims(self, name, dims):
        """A tensor's new shape."""
        rule = next((rule[1:] for rule in self.rules if rule[0] in name), None)
        if rule is None:
            raise h.Failed(f'{name}: a tensor that this test does not know')
        return [next((new for old, new in options if old == size), size) for size, options in zip(dims, rule)]


def head_rows(head):
    """Rows of the embedding table."""
    return head.tensor(b'token_embd.weight')[1][1]


def weights(name, dims, chance):
    """Random weights of a size that keeps activations near 1."""
    count, rope = math.prod(dims), 'rope_f' in name
    if rope:
        values = [1 + chance.random() for _ in range(count)]
    elif len(dims) == 1 and 'weight' in name:
        values = [0.8 + 0.4 * chance.random() for _ in range(count)]
    else:
        scale = 0.1 if len(dims) == 1 else 1.2 / math.sqrt(dims[0])
        values = [scale * (2 * chance.random() - 1) for _ in range(count)]
    return array.array('f', values).tobytes()


def make(case, path, chance):
    """Writes the model; returns its Shape."""
    head = gguf.Head(os.path.join(CASES, case, 'model.gguf'))
    shape = Shape(head, chance)
    tensors = {}
    for name, dims, _, _ in head.tensors:
        text = name.decode()
        new = shape.dims(text, dims)
        tensors[text] = (new, weights(text, new, chance))
    gguf.write_f32(path, [(key.decode(), kind, value) for key, kind, value in head.keys], tensors)
    return shape


def check(case, number):
    """One family in one other shape."""
    chance = random.Random(f'{SEED} {case} {number}')
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'model.gguf')
        shape = make(case, path, chance)
        outputs = ('embeddings',) if 'bert' in case or case == 't5encoder' else ('logits',)
        options, greedy = (), 0 if outputs[0] == 'embeddings' else 5
        if case.startswith('t5-'):
            options += ('--decoder-tokens', ','.join(str(chance.randrange(shape.new_vocab)) for _ in range(9)))
        tokens = [chance.randrange(shape.new_vocab) for _ in range(37)]

        def run(*more, env=None):
            return h.evaluate(path, tokens, *options, *more, greedy=greedy, outputs=outputs, env=env)
        try:
            reference = run('--device', 'cpu-ref')
            for isa in ISAS if h.SLOWER == 1 else (None,):
                compare(run('--device', 'cpu', env={'PENSTOCK_ISA': isa} if isa else None), reference, LIMIT)
            best = run('--device', 'cpu')
            h.same_bits(run('--stages', 2, '--threads', 1), best)
            if greedy:
                h.same_bits(run('--one-by-one'), best)
                for kv in ('f16', 'q8_0'):
                    # Both round keys and values in the same way.
                    compare(run('--kv', kv), run('--kv', kv, '--device', 'cpu-ref'), {'max_abs': 2e-2, 'nmse': 1e-5})
        except h.Failed as reason:
            if 'this processor lacks it' not in str(reason):
                raise h.Failed(f'{shape.text}\n{reason}') from None
        return shape.text


def compare(result, reference, limit):
    """The one output of both."""
    name, = reference.raw
    diff = h.difference(result.values(name), reference.values(name))
    if not h.within(diff, limit):
        raise h.Failed(h.describe(diff, limit))


def main():
    tap = h.Tap()
    for case in sorted(os.listdir(CASES)):
        if os.path.isdir(os.path.join(CASES, case)) and not case.startswith('q-'):
            for number in range(ROUNDS):
                tap.check(f'{case} in another shape', check, case, number)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
