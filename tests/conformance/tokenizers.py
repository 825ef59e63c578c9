#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""tokenizers.py NAME...: `penstock tokenize` against the ids of other implementations.

NAME is a vocabulary of the third-party data (gpt-2, llama-spm, bert-bge, ...: 46 texts each,
encoded and, where nothing is lost, decoded back), `t5-small` (a Hugging Face tokenizer.json, made
into a GGUF here), `demo` (the cases of the demo models) or `chat` (the template of a file).
"""
import base64
import json
import os
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

SEPARATOR = b'\n__ggml_vocab_test__\n'
# Numbers of the GGUF format.
U8, I32, U32, F32, BOOL, STRING, ARRAY = 0, 5, 4, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def vectors(name):
    """(path of the vocabulary, [(text, ids)])."""
    vocabulary = h.data('tokenizers', 'llama.cpp-vocab', f'ggml-vocab-{name}.gguf')
    with open(vocabulary + '.inp', 'rb') as f:
        texts = f.read().split(SEPARATOR)[:-1]
    with open(vocabulary + '.out', encoding='ascii') as f:
        ids = [[int(word) for word in line.split()] for line in f.read().splitlines()]
    if len(texts) != len(ids):
        raise h.Failed(f'{len(texts)} texts, {len(ids)} lines of ids')
    return vocabulary, list(zip(texts, ids))


def tokenize(vocabulary, *options, stdin):
    """stdout of `penstock tokenize`."""
    status, stdout, stderr = h.penstock('tokenize', vocabulary, *options, stdin=stdin)
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr[-1000:]}')
    return stdout


def check_encode(vocabulary, text, expected, *options):
    """Text to ids."""
    got = json.loads(tokenize(vocabulary, *options, stdin=text))
    if got != expected:
        raise h.Failed(f'{text!r}\ngot      {got}\nexpected {expected}')


def check_decode(vocabulary, text, ids):
    """Ids to the very bytes of the text."""
    got = tokenize(vocabulary, '--decode', stdin=json.dumps(ids).encode())
    if got != text:
        raise h.Failed(f'{ids}\ngot      {got!r}\nexpected {text!r}')


def check_again(vocabulary, ids):
    """What decoding gives is not the text, where normalising lost some of it, but it has the same ids."""
    text = tokenize(vocabulary, '--decode', stdin=json.dumps(ids).encode())
    check_encode(vocabulary, text, ids, '--no-special')


def check_vocabulary(tap, name):
    """All texts of one vocabulary."""
    found = tap.check(f'{name} vectors', vectors, name)
    if not found:
        return
    vocabulary, pairs = found
    if h.SLOWER > 1:
        # Loading a large vocabulary takes a second there; the unit tests encode all texts in one process.
        pairs = pairs[::5]
    for number, (text, ids) in enumerate(pairs):
        tap.check(f'{name} encode {number}', check_encode, vocabulary, text, ids, '--no-special')
    if name == 'bert-bge':
        unknown = 100
        for number, (text, ids) in enumerate(pairs):
            if unknown not in ids:
                tap.check(f'{name} decode {number}', check_again, vocabulary, ids)
    elif name == 'llama-spm':
        for number, (text, ids) in enumerate(pairs):
            tap.check(f'{name} decode {number}', check_decode, vocabulary, text, ids)
    else:
        # A byte-level token means the same bytes anywhere, so all texts are decoded at once.
        tap.check(f'{name} decode', check_decode, vocabulary, b''.join(text for text, _ in pairs),
                  [token for _, ids in pairs for token in ids])


def gguf_string(text):
    """A string as the format has it."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack('<Q', len(raw)) + raw


def gguf_array(kind, values):
    """An array of strings, of bytes, or of one of struct's types."""
    if kind == STRING:
        raw = b''.join(map(gguf_string, values))
    elif kind == U8:
        raw = values
    else:
        raw = struct.pack(f'<{len(values)}{"i" if kind == I32 else "f"}', *values)
    return ARRAY, struct.pack('<IQ', kind, len(values)) + raw


def write_gguf(path, keys):
    """A file of keys {name: (type, bytes)} and no tensors."""
    with open(path, 'wb') as f:
        f.write(b'GGUF' + struct.pack('<IQQ', 3, 0, len(keys)))
        for name, (kind, raw) in keys.items():
            f.write(gguf_string(name) + struct.pack('<I', kind) + raw)


def convert_unigram(source, path):
    """A Hugging Face unigram tokenizer.json as a GGUF. Its sentinels are pieces of the vocabulary like
    others, with probability 1, so they are normal tokens: the space in front of one is then a token of its own."""
    with open(source, encoding='utf-8') as f:
        tokenizer = json.load(f)
    vocabulary = tokenizer['model']['vocab']
    types = [NORMAL] * len(vocabulary)
    types[tokenizer['model']['unk_id']] = UNKNOWN
    for added in tokenizer['added_tokens']:
        if added['content'] in ('<pad>', '</s>'):
            types[added['id']] = CONTROL
    true = (BOOL, b'\x01')
    write_gguf(path, {
        'general.architecture': (STRING, gguf_string('t5')),
        'tokenizer.ggml.model': (STRING, gguf_string('t5')),
        'tokenizer.ggml.tokens': gguf_array(STRING, [piece for piece, _ in vocabulary]),
        'tokenizer.ggml.scores': gguf_array(F32, [score for _, score in vocabulary]),
        'tokenizer.ggml.token_type': gguf_array(I32, types),
        'tokenizer.ggml.eos_token_id': (U32, struct.pack('<I', 1)),
        'tokenizer.ggml.unknown_token_id': (U32, struct.pack('<I', tokenizer['model']['unk_id'])),
        'tokenizer.ggml.add_eos_token': true,
        'tokenizer.ggml.add_space_prefix': true,
        'tokenizer.ggml.remove_extra_whitespaces': true,
        'tokenizer.ggml.precompiled_charsmap':
            gguf_array(U8, base64.b64decode(tokenizer['normalizer']['precompiled_charsmap'])),
    })


def check_t5(tap):
    """The hard text of T5's own tokenizer, and what its normalisation does to some others."""
    def convert(path):
        convert_unigram(h.data('tokenizers', 't5-small', 'tokenizer.json'), path)
        with open(h.data('tokenizers', 't5-small', 'expected.json'), encoding='utf-8') as f:
            return json.load(f)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 't5-small.gguf')
        case = tap.check('t5-small', convert, path)
        if not case:
            return
        tap.check('t5-small hard text', check_encode, path, case['text'].encode(), case['ids'])
        eos = case['ids'][-1]
        # Ids of the hard text, by way of characters that mean the same after NFKC and blanks that do not count.
        tap.check('t5-small NFKC', check_encode, path, '\u3000Ｉ <extra_id_0>\n\nlike\t'.encode(),
                  case['ids'][:4] + [eos])
        tap.check('t5-small nothing', check_encode, path, b' \n ', [eos])


def check_demo(tap):
    """Prompts and continuations of the demo models: (name, key of the text, key of its ids)."""
    for name, text, ids in (('llama', 'prompt', 'prompt_ids'), ('gpt2', 'prompt', 'prompt_ids'),
                            ('bloom', 'prompt', 'prompt_ids'), ('bert', 'sentence', 'ids'),
                            ('t5', 'input', 'input_ids')):
        def cases(of):
            with open(h.data('models', 'demo', of, 'expected.json'), encoding='utf-8') as f:
                return h.data('models', 'demo', of, 'model-f16.gguf'), json.load(f)['cases']

        found = tap.check(f'demo {name}', cases, name)
        for number, case in enumerate(found[1] if found else []):
            tap.check(f'demo {name} encode {number}', check_encode, found[0], case[text].encode(), case[ids],
                      '--parse-special')
            if 'text' in case:
                tap.check(f'demo {name} decode {number}', check_decode, found[0], case['text'].encode(),
                          case['greedy_ids'][:case.get('length_to_eos')])


def check_chat(tap):
    """qwen2's vocabulary has a template, llama-bpe's has none."""
    def formatted():
        path = h.data('tokenizers', 'llama.cpp-vocab', 'ggml-vocab-qwen2.gguf')
        ids = json.loads(tokenize(path, '--chat', 'auto', stdin=b'Hi'))
        if ids != [151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]:
            raise h.Failed(f'ids {ids}')

    def refused():
        path = h.data('tokenizers', 'llama.cpp-vocab', 'ggml-vocab-llama-bpe.gguf')
        for name, what in (('auto', 'has no chat template'), ('nonsense', 'expected one of chatml')):
            status, _, stderr = h.penstock('tokenize', path, '--chat', name, stdin=b'Hi')
            if status != 1 or what not in stderr:
                raise h.Failed(f'--chat {name}: exit status {status}: {stderr}')

    tap.check('chat template of the file', formatted)
    tap.check('chat template that is not there', refused)


def main(names):
    tap = h.Tap()
    checks = {'t5-small': check_t5, 'demo': check_demo, 'chat': check_chat}
    for name in names:
        if name in checks:
            checks[name](tap)
        else:
            check_vocabulary(tap, name)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
