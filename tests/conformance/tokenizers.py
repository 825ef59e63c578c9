#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""tokenizers.py NAME...: `penstock tokenize` against the ids of other implementations.

NAME is a vocabulary of the third-party data (gpt-2, llama-spm): 46 texts each, encoded
and decoded back.
"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

SEPARATOR = b'\n__ggml_vocab_test__\n'


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


def check_encode(vocabulary, text, expected):
    """Text to ids, nothing added."""
    got = json.loads(tokenize(vocabulary, '--no-special', stdin=text))
    if got != expected:
        raise h.Failed(f'{text!r}\ngot      {got}\nexpected {expected}')


def check_decode(vocabulary, text, ids):
    """Ids to the very bytes of the text."""
    got = tokenize(vocabulary, '--decode', stdin=json.dumps(ids).encode())
    if got != text:
        raise h.Failed(f'{ids}\ngot      {got!r}\nexpected {text!r}')


def main(names):
    tap = h.Tap()
    for name in names:
        found = tap.check(f'{name} vectors', vectors, name)
        if not found:
            continue
        vocabulary, pairs = found
        for number, (text, ids) in enumerate(pairs):
            tap.check(f'{name} encode {number}', check_encode, vocabulary, text, ids)
            tap.check(f'{name} decode {number}', check_decode, vocabulary, text, ids)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
