#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""torn.py: damaged model files through the program give errors, never a crash or a hang.

A shipped model is cut at many points and has bytes flipped (seeded), and goes through
`inspect`, `tokenize` and `eval`. A cut file must be refused; one with a flipped byte may
be accepted when the byte is a weight.
"""
import glob
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

SEED = 20240
# With sanitizers fewer: there the fuzz suite tries thousands in one process.
N_CUTS, N_FLIPS = (40, 60) if h.SLOWER == 1 else (10, 15)


def smallest_model():
    """A small model of the tree, so that the many copies cost little."""
    found = glob.glob(os.path.join(h.ROOT, 'tests', 'conformance', 'cases', '*', 'model.gguf'))
    found += glob.glob(os.path.join(h.ROOT, 'models', '**', '*.gguf'), recursive=True)
    if not found:
        raise h.Failed('no model in the tree')
    return min(found, key=os.path.getsize)


def commands(path):
    """What is tried on a damaged file."""
    yield ('inspect', path), b''
    yield ('eval', path, '--tokens', '1,2,3', '--logits', os.devnull, '--greedy', 2), b''
    yield ('tokenize', path), b'some text'


def try_all(path, must_fail, what):
    """Runs all commands on a file; a crash or hang raises in penstock()."""
    for args, stdin in commands(path):
        status, _, stderr = h.penstock(*args, stdin=stdin, timeout=20)
        if status not in (0, 1):
            raise h.Failed(f'{what}: {args[0]}: exit status {status}: {stderr[-500:]}')
        if must_fail and status == 0:
            raise h.Failed(f'{what}: {args[0]} accepted it')
        if status == 1 and not stderr.strip():
            raise h.Failed(f'{what}: {args[0]} failed without a word')


def check_cuts(raw, folder):
    """The file ends too early: at the first bytes, and at points all over it."""
    chance = random.Random(SEED)
    # The last 31 bytes may be padding, which a file does without.
    points = list(range(0, 33, 4)) + [len(raw) - 32] + [chance.randrange(len(raw) - 32) for _ in range(N_CUTS)]
    path = os.path.join(folder, 'cut.gguf')
    for point in points:
        with open(path, 'wb') as f:
            f.write(raw[:point])
        try_all(path, True, f'cut after {point} of {len(raw)} bytes')
    return f'{len(points)} cuts'


def check_flips(raw, folder):
    """Single bytes differ; most of them in the header, where every byte has a meaning."""
    chance = random.Random(SEED + 1)
    path = os.path.join(folder, 'flipped.gguf')
    for _ in range(N_FLIPS):
        place = chance.randrange(min(len(raw), 4096)) if chance.random() < 0.8 else chance.randrange(len(raw))
        bit = 1 << chance.randrange(8)
        with open(path, 'wb') as f:
            f.write(raw[:place])
            f.write(bytes([raw[place] ^ bit]))
            f.write(raw[place + 1:])
        try_all(path, False, f'byte {place} flipped by {bit:#x}')
    return f'{N_FLIPS} flips, seed {SEED}'


def check_no_file(folder):
    """No file, a folder, an empty file."""
    empty = os.path.join(folder, 'empty.gguf')
    with open(empty, 'wb'):
        pass
    for path in (os.path.join(folder, 'missing.gguf'), folder, empty):
        try_all(path, True, path)


def main():
    tap = h.Tap()
    model = tap.check('a model to damage', smallest_model)
    if model:
        with open(model, 'rb') as f:
            raw = f.read()
        with tempfile.TemporaryDirectory() as folder:
            tap.check('cut files are refused', check_cuts, raw, folder)
            tap.check('flipped bytes do no harm', check_flips, raw, folder)
            tap.check('what is no model is refused', check_no_file, folder)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
