#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""make_corpus.py: writes corpus/ from the conformance cases and the models that ship.

A file NAME.head is a GGUF without the data of its tensors, which the fuzzer
makes up; NAME.gguf is a file as it is. Three kinds:
  family-*  the header of a conformance case, one or more for each architecture
  vocab-*   the keys of a shipped model, vocabulary and all, and no tensors
  bad-*     hostile or torn ones: each says in its name what is wrong
Run it again when a family is added; its output is checked in.
"""
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..'))
from gguf import ARRAY, BOOL, F32, I32, STRING, U32, U64, Head, string  # noqa: E402 (the path comes first)

ROOT = os.path.join(HERE, '..', '..')
CASES = os.path.join(ROOT, 'tests', 'conformance', 'cases')
OUT = os.path.join(HERE, 'corpus')

FAMILIES = ('bert-mean bert-none bloom-h6 falcon-40b-style falcon-7b-style gemma gemma2 gemma3 gpt2-odd gptneox-par gptneox-seq '
            'llama-fusedqkv llama-linear llama-moe llama-ropefreqs llama-yarn mpt-clamp-bias nomic-bert olmo2-swa phi2-split '
            'phi3-longrope qwen2 qwen3 stablelm stablelm-par starcoder starcoder2 t5-gated t5encoder q-gpt2-BF16 q-gpt2-IQ4_NL '
            'q-gpt2-Q2_K q-gpt2-Q4_K q-llama-Q5_1 q-llama-Q8_0').split()
VOCABS = ('llama', 'gpt2', 'bert', 't5')


def write(name, data):
    """One file of the corpus."""
    with open(os.path.join(OUT, name), 'wb') as f:
        f.write(data)


def case(name):
    """The header of a conformance case."""
    return Head(os.path.join(CASES, name, 'model.gguf'))


def bad_key(name, base, *changes):
    """A family's header with keys changed."""
    head = case(base)
    for key, kind, value in changes:
        head.set(key.encode(), kind, value)
    write(f'bad-{name}.head', head.bytes())


def bad_tensor(name, base, tensor, place, value):
    """A family's header with a tensor's dims (1), type (2) or offset (3) changed."""
    head = case(base)
    head.tensor(tensor.encode())[place] = value
    write(f'bad-{name}.head', head.bytes())


def bad_vocab(name, base, *changes):
    """A shipped vocabulary with keys changed."""
    head = vocab(base)
    for key, kind, value in changes:
        head.set(f'tokenizer.ggml.{key}'.encode(), kind, value)
    write(f'bad-{name}.gguf', head.bytes())


def vocab(name):
    """The keys of a shipped model, its vocabulary cut to 300 tokens."""
    head = Head(os.path.join(ROOT, 'models', f'demo-{name}-f16.gguf'))
    head.tensors = []
    for key in head.keys:
        if key[1] == ARRAY:
            key[2] = (key[2][0], key[2][1][:300])
        elif key[0].endswith(b'_token_id') and key[2] >= 300:
            key[2] = 299
    return head


def hyperparameters():
    """Keys of every kind with values that no model has."""
    llama = 'llama-mha'
    for name, value in (('zero', 0), ('huge', 0x7fffffff), ('all-bits', 0xffffffff)):
        for key in ('block_count', 'attention.head_count', 'attention.head_count_kv', 'embedding_length', 'feed_forward_length',
                    'context_length', 'rope.dimension_count', 'attention.key_length'):
            bad_key(f'{name}-{key.replace("attention.", "").replace(".", "-")}', llama, (f'llama.{key}', U32, value))
    bad_key('many-blocks', llama, ('llama.block_count', U32, 1024))
    bad_key('negative-block-count', llama, ('llama.block_count', I32, -1))
    bad_key('block-count-text', llama, ('llama.block_count', STRING, b'three'))
    bad_key('head-count-array', llama, ('llama.attention.head_count', ARRAY, (I32, [4, 4, 0])))
    bad_key('kv-heads-do-not-divide', llama, ('llama.attention.head_count_kv', U32, 3))
    bad_key('rope-odd', llama, ('llama.rope.dimension_count', U32, 11))
    bad_key('eps-nan', llama, ('llama.attention.layer_norm_rms_epsilon', F32, float('nan')))
    bad_key('eps-infinite', llama, ('llama.attention.layer_norm_rms_epsilon', F32, float('inf')))
    bad_key('rope-base-zero', llama, ('llama.rope.freq_base', F32, 0.0))
    bad_key('arch-unknown', llama, ('general.architecture', STRING, b'llama\0\xff%s%n'))
    bad_key('arch-missing', llama, ('general.architecture', U32, 1))
    bad_key('alignment-3', llama, ('general.alignment', U32, 3))
    bad_key('alignment-huge', llama, ('general.alignment', U32, 1 << 31))
    bad_key('experts-huge', 'llama-moe', ('llama.expert_count', U32, 4096), ('llama.expert_used_count', U32, 4096))
    bad_key('experts-more-used', 'llama-moe', ('llama.expert_used_count', U32, 4097))
    bad_key('window-huge', 'gemma2', ('gemma2.attention.sliding_window', U32, 0xffffffff))
    bad_key('softcap-nan', 'gemma2', ('gemma2.attn_logit_softcapping', F32, float('nan')))
    bad_key('alibi-infinite', 'mpt-clamp-bias', ('mpt.attention.max_alibi_bias', F32, float('inf')))
    bad_key('buckets-zero', 't5-gated', ('t5.attention.relative_buckets_count', U32, 0))
    bad_key('buckets-huge', 't5-gated', ('t5.attention.relative_buckets_count', U32, 1 << 30))
    bad_key('decoder-blocks-huge', 't5-gated', ('t5.decoder_block_count', U32, 0x7fffffff))
    bad_key('decoder-start-beyond', 't5-gated', ('t5.decoder_start_token_id', U32, 1 << 30))
    bad_key('pooling-unknown', 'bert-mean', ('bert.pooling_type', U32, 77))


def shapes():
    """Tensors that the builder has to refuse."""
    bad_tensor('embedding-shape', 'llama-mha', 'token_embd.weight', 1, [48, 1 << 40])
    bad_tensor('embedding-overflow', 'llama-mha', 'token_embd.weight', 1, [1 << 32, 1 << 32])
    bad_tensor('embedding-empty', 'llama-mha', 'token_embd.weight', 1, [48, 0])
    bad_tensor('five-dims', 'llama-mha', 'blk.0.attn_q.weight', 1, [2, 2, 2, 2, 2])
    bad_tensor('no-dims', 'llama-mha', 'blk.0.attn_q.weight', 1, [])
    bad_tensor('q-transposed', 'llama-gqa-tied', 'blk.0.attn_k.weight', 1, [20, 60])
    bad_tensor('norm-short', 'llama-mha', 'blk.0.attn_norm.weight', 1, [47])
    bad_tensor('norm-f16', 'llama-mha', 'blk.0.attn_norm.weight', 2, 1)
    bad_tensor('type-unknown', 'llama-mha', 'blk.0.attn_q.weight', 2, 99)
    bad_tensor('type-no-whole-block', 'llama-mha', 'blk.0.attn_q.weight', 2, 12)
    bad_tensor('offset-odd', 'llama-mha', 'blk.1.attn_q.weight', 3, 33)
    bad_tensor('offset-beyond', 'llama-mha', 'blk.1.attn_q.weight', 3, 1 << 62)
    bad_tensor('name-bytes', 'llama-mha', 'blk.1.attn_q.weight', 0, b'blk.1.attn_q\n.weight')
    bad_tensor('name-long', 'llama-mha', 'blk.1.attn_q.weight', 0, b'x' * 5000)
    bad_tensor('name-twice', 'llama-mha', 'blk.1.attn_q.weight', 0, b'blk.0.attn_q.weight')
    bad_tensor('rope-factors-short', 'llama-ropefreqs', 'rope_freqs.weight', 1, [7])
    bad_tensor('relative-bias-shape', 't5-gated', 'enc.blk.0.attn_rel_b.weight', 1, [6, 31])
    bad_tensor('positions-empty', 'gpt2-odd', 'position_embd.weight', 1, [45, 0])
    bad_tensor('fused-short', 'gpt2-odd', 'blk.0.attn_qkv.weight', 1, [45, 134])
    bad_tensor('expert-dims', 'llama-moe', 'blk.0.ffn_up_exps.weight', 1, [32, 44, 1])


def vocabularies():
    """Vocabularies that contradict themselves."""
    many = list(range(300))
    bad_vocab('vocab-scores-short', 'llama', ('scores', ARRAY, (F32, [0.0] * 299)))
    bad_vocab('vocab-scores-nan', 'llama', ('scores', ARRAY, (F32, [float('nan')] * 300)))
    bad_vocab('vocab-types-range', 'llama', ('token_type', ARRAY, (I32, many)))
    bad_vocab('vocab-bos-beyond', 'llama', ('bos_token_id', U32, 300))
    bad_vocab('vocab-no-tokens', 'llama', ('tokens', ARRAY, (STRING, [])))
    bad_vocab('vocab-tokens-numbers', 'llama', ('tokens', ARRAY, (I32, many)))
    bad_vocab('vocab-same-tokens', 'llama', ('tokens', ARRAY, (STRING, [b'a'] * 300)))
    bad_vocab('vocab-empty-tokens', 't5', ('tokens', ARRAY, (STRING, [b''] * 300)))
    bad_vocab('vocab-long-token', 'gpt2', ('tokens', ARRAY, (STRING, [b'a' * 3000] + [b'%d' % i for i in many[1:]])))
    bad_vocab('vocab-merges-no-space', 'gpt2', ('merges', ARRAY, (STRING, [b'ab', b'', b' ', b'a ', b' b', b'a b c'])))
    bad_vocab('vocab-merges-same', 'gpt2', ('merges', ARRAY, (STRING, [b't h'] * 300)))
    bad_vocab('vocab-merges-grow', 'gpt2', ('merges', ARRAY, (STRING, [b'a' * n + b' ' + b'a' * n for n in range(1, 80)])))
    bad_vocab('vocab-pre-unknown', 'gpt2', ('pre', STRING, b'no such pre-tokenizer \xff'))
    bad_vocab('vocab-model-unknown', 'gpt2', ('model', STRING, b'%s%s%s'))
    bad_vocab('vocab-no-unk', 'bert', ('unknown_token_id', U32, 0xffffffff))
    bad_vocab('vocab-cls-beyond', 'bert', ('cls_token_id', U32, 0x7fffffff))
    bad_vocab('vocab-charsmap-torn', 't5', ('precompiled_charsmap', ARRAY, (0, [255] * 40)))
    bad_vocab('vocab-charsmap-short', 't5', ('precompiled_charsmap', ARRAY, (0, [1])))
    loop = struct.pack('<I', 16) + struct.pack('<4I', 0x400, 0xffffffff, 0x100, 0x80000000) + b'x\0'
    bad_vocab('vocab-charsmap-wild', 't5', ('precompiled_charsmap', ARRAY, (0, list(loop))))


def files():
    """Bytes that do not even make a header."""
    good = case('llama-mha').bytes()
    for name, size in (('empty', 0), ('one-byte', 1), ('magic-only', 4), ('half-header', 17), ('header-only', 24), ('mid-keys', 300),
                       ('mid-tensors', len(good) - 100), ('no-data', len(good))):
        write(f'bad-cut-{name}.gguf', good[:size])
    write('bad-magic.gguf', b'GGML' + good[4:])
    write('bad-version-1.gguf', good[:4] + struct.pack('<I', 1) + good[8:])
    write('bad-big-endian.gguf', good[:4] + struct.pack('>I', 3) + good[8:])
    write('bad-many-tensors.gguf', good[:8] + struct.pack('<Q', 1 << 60) + good[16:])
    write('bad-many-keys.gguf', good[:16] + struct.pack('<Q', (1 << 64) - 1) + good[24:])
    write('bad-key-length.gguf', good[:24] + struct.pack('<Q', (1 << 64) - 8) + good[32:])
    head = struct.pack('<IIQQ', 0x46554747, 3, 0, 1) + string(b'k') + struct.pack('<I', ARRAY)
    write('bad-array-count.gguf', head + struct.pack('<IQ', U64, 1 << 61) + bytes(64))
    write('bad-array-strings.gguf', head + struct.pack('<IQ', STRING, 1 << 61) + bytes(64))
    write('bad-array-of-arrays.gguf', head + struct.pack('<IQ', ARRAY, 1) + struct.pack('<IQ', ARRAY, 1) * 20)
    write('bad-array-type.gguf', head + struct.pack('<IQ', 13, 1) + bytes(64))
    keys = case('llama-mha')
    keys.keys.append(list(keys.keys[0]))
    write('bad-key-twice.head', keys.bytes())
    keys = case('llama-mha')
    keys.keys[0][0] = b'a\nb'
    write('bad-key-bytes.head', keys.bytes())


def main():
    os.makedirs(OUT, exist_ok=True)
    for name in os.listdir(OUT):
        os.unlink(os.path.join(OUT, name))
    for name in FAMILIES:
        write(f'family-{name}.head', case(name).bytes())
    for name in VOCABS:
        write(f'vocab-{name}.gguf', vocab(name).bytes())
    hyperparameters()
    shapes()
    vocabularies()
    files()


if __name__ == '__main__':
    main()
