# SPDX-License-Identifier: BSD-3-Clause
"""A model that is slow on purpose: llama-shaped random weights, about 77 MB of F32.

The tests that stop a run in its middle need one that takes seconds, which the models
that ship do not. Its text means nothing; it never ends by itself, because the row of
the end token in the output matrix is zero.
"""
import array
import random
import struct

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
WIDTH, HIDDEN, LAYERS, HEADS, HEADS_KV, CONTEXT = 512, 1408, 6, 8, 1, 4096
VOCABULARY = 512
ALIGN = 32


def text(value):
    """A GGUF string."""
    raw = value.encode()
    return struct.pack('<Q', len(raw)) + raw


def key_value(key, kind, value):
    """A GGUF key with a scalar, or with an array given as (kind, values)."""
    head = text(key) + struct.pack('<I', kind)
    if kind == ARRAY:
        item, values = value
        if item == STRING:
            body = b''.join(map(text, values))
        else:
            body = struct.pack(f'<{len(values)}{"f" if item == F32 else "i"}', *values)
        return head + struct.pack('<IQ', item, len(values)) + body
    if kind == STRING:
        return head + text(value)
    return head + struct.pack('<f' if kind == F32 else '<I', value)


def vocabulary():
    """Byte tokens after <unk> <s> </s>, then made-up words: (tokens, scores, types)."""
    tokens = ['<unk>', '<s>', '</s>'] + [f'<0x{byte:02X}>' for byte in range(256)]
    types = [2, 3, 3] + [6] * 256
    tokens += [f'\u2581w{number}' for number in range(VOCABULARY - len(tokens))]
    types += [1] * (VOCABULARY - len(types))
    return tokens, [-float(number) for number in range(VOCABULARY)], types


def tensors():
    """[(name, dimensions)] of the model, inputs first as GGUF has them."""
    kv = WIDTH // HEADS * HEADS_KV
    found = [('token_embd.weight', (WIDTH, VOCABULARY)), ('output_norm.weight', (WIDTH,)),
             ('output.weight', (WIDTH, VOCABULARY))]
    for block in range(LAYERS):
        shapes = {'attn_norm': (WIDTH,), 'attn_q': (WIDTH, WIDTH), 'attn_k': (WIDTH, kv), 'attn_v': (WIDTH, kv),
                  'attn_output': (WIDTH, WIDTH), 'ffn_norm': (WIDTH,), 'ffn_gate': (WIDTH, HIDDEN),
                  'ffn_up': (WIDTH, HIDDEN), 'ffn_down': (HIDDEN, WIDTH)}
        found += [(f'blk.{block}.{name}.weight', shape) for name, shape in shapes.items()]
    return found


def weights(name, shape, noise):
    """The bytes of a tensor: ones for a norm, else a stretch of the same noise."""
    count = shape[0] * (shape[1] if len(shape) > 1 else 1)
    if name.endswith('norm.weight'):
        return array.array('f', [1.0]) * count
    values = (noise * (count // len(noise) + 1))[:count]
    if name == 'output.weight':
        values[:3 * WIDTH] = array.array('f', [0.0]) * (3 * WIDTH)
    return values


def write(path):
    """Writes the model."""
    chance = random.Random(7)
    # A prime length, so that no two rows are the same stretch of it.
    noise = array.array('f', (chance.gauss(0.0, 0.04) for _ in range(65537)))
    tokens, scores, types = vocabulary()
    keys = [
        key_value('general.architecture', STRING, 'llama'), key_value('general.name', STRING, 'slow on purpose'),
        key_value('llama.block_count', U32, LAYERS), key_value('llama.context_length', U32, CONTEXT),
        key_value('llama.embedding_length', U32, WIDTH), key_value('llama.feed_forward_length', U32, HIDDEN),
        key_value('llama.attention.head_count', U32, HEADS), key_value('llama.attention.head_count_kv', U32, HEADS_KV),
        key_value('llama.attention.layer_norm_rms_epsilon', F32, 1e-5),
        key_value('llama.rope.dimension_count', U32, WIDTH // HEADS), key_value('llama.vocab_size', U32, VOCABULARY),
        key_value('tokenizer.ggml.model', STRING, 'llama'), key_value('tokenizer.ggml.tokens', ARRAY, (STRING, tokens)),
        key_value('tokenizer.ggml.scores', ARRAY, (F32, scores)),
        key_value('tokenizer.ggml.token_type', ARRAY, (I32, types)),
        key_value('tokenizer.ggml.bos_token_id', U32, 1), key_value('tokenizer.ggml.eos_token_id', U32, 2),
    ]
    shapes, infos, offset = tensors(), b'', 0
    for name, shape in shapes:
        infos += text(name) + struct.pack(f'<I{len(shape)}QIQ', len(shape), *shape, 0, offset)
        offset += (4 * shape[0] * (shape[1] if len(shape) > 1 else 1) + ALIGN - 1) // ALIGN * ALIGN
    with open(path, 'wb') as f:
        f.write(b'GGUF' + struct.pack('<IQQ', 3, len(shapes), len(keys)) + b''.join(keys) + infos)
        for name, shape in shapes:
            f.write(b'\0' * (-f.tell() % ALIGN))
            weights(name, shape, noise).tofile(f)
