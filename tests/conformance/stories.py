#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""stories.py: real trained weights (stories260K) against llama2.c's own forward pass.

200 logits rows for the 200 tokens of its greedy text, that text itself from token
<s>, and the same over 1, 2 and 3 stages.
"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

# The reference accumulates in float32 in another order than we do, and its logits reach
# about 20: a hundred float32 roundings of that size.
TOLERANCE = {'max_abs': 5e-4, 'nmse': 1e-9}
MODEL = ('models', 'llama2-stories260K')


def tokens():
    """The 200 input tokens, the first of which is <s>."""
    with open(h.data(*MODEL, 'ref_greedy200_input_tokens.txt'), encoding='ascii') as f:
        return [int(word) for word in f.read().split()]


def gguf():
    """The model's path."""
    return h.data(*MODEL, 'stories260K.gguf')


def check_logits(device):
    """All rows at once against the reference."""
    reference = h.read_f32(h.data(*MODEL, 'ref_greedy200_logits_f32_200x512.bin'))
    diff = h.difference(h.evaluate(gguf(), tokens(), '--device', device).logits, reference)
    if not h.within(diff, TOLERANCE):
        raise h.Failed(h.describe(diff, TOLERANCE))
    return h.describe(diff, TOLERANCE)


def check_greedy(device, stages):
    """From <s> alone the engine writes the reference's tokens itself."""
    expected = tokens()
    got = h.evaluate(gguf(), expected[:1], '--device', device, '--stages', stages, greedy=len(expected) - 1).greedy
    if got != expected[1:]:
        first = next((i for i, (a, b) in enumerate(zip(got, expected[1:])) if a != b), min(len(got), len(expected) - 1))
        raise h.Failed(f'differs from step {first}: {got[first:first + 5]}, expected {expected[1 + first:6 + first]}')
    return f'{len(got)} tokens'


def check_text():
    """Decoded, the tokens are the known text."""
    with open(h.data(*MODEL, 'greedy200_text.txt'), 'rb') as f:
        expected = f.read()
    status, text, stderr = h.penstock('tokenize', gguf(), '--decode', stdin=json.dumps(tokens()).encode())
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr}')
    # The file holds one token more than the 200 that were fed, and may end in a newline of the editor's.
    if not expected.strip().startswith(text.strip()) or len(text.strip()) < len(expected.strip()) - 16:
        raise h.Failed(f'got {text!r}\nexpected {expected!r}')
    return f'{len(text)} bytes'


def main():
    tap = h.Tap()
    for device in ('cpu-ref', 'cpu'):
        tap.check(f'stories260K {device} logits of 200 tokens', check_logits, device)
        for stages in (1, 2, 3):
            tap.check(f'stories260K {device} greedy text, {stages} stages', check_greedy, device, stages)
    tap.check('stories260K text', check_text)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
