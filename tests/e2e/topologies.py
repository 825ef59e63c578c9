#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""topologies.py: `penstock up --check` takes right topology files and says where wrong ones are wrong.

Each wrong file must be refused with exit status 1 and "FILE:LINE:COLUMN: found ...;
expected ...", at the place and with the words given here.
"""
import glob
import os
import random
import sys
import tempfile

import runs
from runs import h

HEAD = 'version: 1\nmodel: {model}\n'
TWO = HEAD + 'stages:\n  - {{name: a, blocks: "0-2"}}\n  - {{name: b, blocks: "{blocks}"}}\n'
NODES = HEAD + 'wire: {{driver: af_xdp}}\nnodes:\n  - {{name: n0}}\n  - {{name: n1}}\n'
LINKS = NODES + 'stages:\n  - {{name: a, node: n0}}\n  - {{name: b, node: n1}}\nlinks:\n'

# name: (text, line, column, words that the error must contain)
WRONG = {
    'an unknown key': (HEAD + 'stagse:\n  - {{name: a}}\n', 3, 1, ('stagse', 'stages')),
    'an unknown key of a stage': (HEAD + 'stages:\n  - {{name: a, bloks: auto}}\n', 4, 15, ('bloks', 'blocks')),
    'an unknown key of the wire': (HEAD + 'wire: {{mtuu: 1500}}\nstages: [{{name: a}}]\n', 3, 8, ('mtuu', 'mtu')),
    'overlapping blocks': (TWO.replace('{blocks}', '2-5'), 5, 23, ('overlapping', '2-5')),
    'missing blocks': (TWO.replace('{blocks}', '4-5'), 5, 23, ('missing', '3-3')),
    'a range backwards': (TWO.replace('{blocks}', '5-3'), 5, 23, ('5-3', 'blocks')),
    'ranges for one stage only': (TWO.replace('"{blocks}"', 'auto'), 5, 23, ('automatic',)),
    'a node that is not there': (NODES + 'stages:\n  - {{name: a, node: n7}}\n', 8, 21, ('n7', 'expected')),
    'two nodes of one name': (NODES.replace('n1', 'n0') + 'stages: [{{node: n0}}]\n', 6, 12, ('n0', 'again')),
    'two stages of one name': (HEAD + 'stages:\n  - {{name: a}}\n  - {{name: a}}\n', 5, 12, ("'a'", 'again')),
    'a link to nowhere': (LINKS + '  - {{from: a, to: z}}\n', 11, 19, ('nowhere', "'z'")),
    'an address twice': (LINKS + '  - {{from: a, to: b, from_address: 10.9.0.1/30, to_address: 10.9.0.1/30}}\n', 11, 0,
                         ('10.9.0.1', 'twice')),
    'an address that is none': (LINKS + '  - {{from: a, to: b, from_address: 10.9.0/30, to_address: 10.9.0.2/30}}\n',
                                11, 36, ('10.9.0/30', '10.0.0.1/30')),
    'ends in two subnets': (LINKS + '  - {{from: a, to: b, from_address: 10.9.0.1/30, to_address: 10.9.1.2/30}}\n',
                            11, 0, ('subnet',)),
    'a number that is none': (HEAD + 'wire: {{mtu: big}}\nstages: [{{name: a}}]\n', 3, 13, ("'big'", 'mtu')),
    'an MTU that AF_XDP cannot carry': (HEAD + 'wire: {{driver: af_xdp, mtu: 9000}}\nstages: [{{name: a}}]\n', 3, 0,
                                        ('9000', 'expected')),
    'an unknown driver': (HEAD + 'wire: {{driver: mlx5}}\nstages: [{{name: a}}]\n', 3, 16, ('mlx5', 'memif')),
    'no stages': (HEAD, 1, 1, ('stages',)),
    'an empty list of stages': (HEAD + 'stages: []\n', 3, 9, ('at least one',)),
    'no version': ('model: {model}\nstages: [{{name: a}}]\n', 1, 1, ('version',)),
    'a version of the future': ('version: 9\nmodel: {model}\nstages: [{{name: a}}]\n', 1, 10, ("'9'", 'version')),
    'a key twice': (HEAD + 'stages: [{{name: a}}]\nstages: [{{name: b}}]\n', 4, 1, ('stages',)),
    'an alias': (HEAD + 'stages: [&x {{name: a}}, *x]\n', 3, 0, ('anchor',)),
    'text that is no YAML': (HEAD + 'stages: [{{name: a}}\n', 0, 0, ('YAML',)),
    'an empty file': ('', 1, 1, ('expected',)),
}


def check(path, *options):
    """`penstock up --check`."""
    return h.penstock('up', '--check', path, *options, timeout=20)


def check_right(path):
    """A file that ships."""
    status, _, err = check(path)
    if status != 0:
        raise h.Failed(f'exit status {status}: {err[-1000:]}')


def check_wrong(folder, text, line, column, words):
    """A wrong file; line or column 0: anywhere."""
    path = os.path.join(folder, 'wrong.yaml')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text.format(model=runs.shipped_model()))
    status, _, err = check(path)
    if status != 1:
        raise h.Failed(f'exit status {status}, expected 1: {err[-1000:]}')
    start = err.find(path + ':')
    if start < 0:
        raise h.Failed(f'no "{path}:LINE:COLUMN:" in {err[-1000:]!r}')
    place = err[start + len(path) + 1:].split(':')
    if (line and place[0] != str(line)) or (column and place[1] != str(column)):
        raise h.Failed(f'at {place[0]}:{place[1]}, expected {line}:{column}: {err[-1000:]}')
    for word in words:
        if word not in err:
            raise h.Failed(f'{word!r} is not in {err[-1000:]!r}')
    if 'found' not in err or 'expected' not in err:
        raise h.Failed(f'no "found ...; expected ..." in {err[-1000:]!r}')


def check_more_blocks(folder):
    """Ranges that go beyond the model's blocks are wrong too, though the file alone does not show it."""
    path = os.path.join(folder, 'blocks.yaml')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(TWO.replace('{blocks}', '3-99').format(model=runs.shipped_model()))
    status, _, err = check(path)
    if status != 1 or '99' not in err:
        raise h.Failed(f'exit status {status}, expected 1 and an error that names the range: {err[-1000:]}')


def check_torn(folder):
    """Shipped files cut short and with bytes changed: an error or not, but never a crash."""
    chance = random.Random(11)
    path, count = os.path.join(folder, 'torn.yaml'), 0
    for source in shipped():
        with open(source, 'rb') as f:
            raw = f.read()
        for _ in range(20):
            damaged = bytearray(raw[:chance.randrange(len(raw))] if chance.random() < 0.5 else raw)
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            with open(path, 'wb') as f:
                f.write(damaged)
            status, _, err = check(path)
            count += 1
            if status not in (0, 1) or (status == 1 and not err):
                raise h.Failed(f'exit status {status}: {err[-500:]}\n{bytes(damaged)!r}')
    return f'{count} files, seed 11'


def check_missing(folder):
    """No file, a folder."""
    for path in (os.path.join(folder, 'missing.yaml'), folder):
        status, _, err = check(path)
        if status != 1 or path not in err:
            raise h.Failed(f'exit status {status}, expected 1 and an error that names {path}: {err[-500:]}')


def shipped():
    """The topology files of the tree."""
    return sorted(glob.glob(os.path.join(runs.TOPOLOGIES, '*.yaml')))


def main():
    tap = h.Tap()
    if len(shipped()) < 4:
        tap.check('topology files that ship', lambda: (_ for _ in ()).throw(h.Failed(f'only {shipped()}')))
    for path in shipped():
        tap.check(f'{os.path.basename(path)} is right', check_right, path)
    with tempfile.TemporaryDirectory() as folder:
        for name, wrong in WRONG.items():
            tap.check(name, check_wrong, folder, *wrong)
        tap.check('blocks that the model does not have', check_more_blocks, folder)
        tap.check('no file', check_missing, folder)
        tap.check('damaged files', check_torn, folder)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
