#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""text.py: what the pipeline writes is, to the byte, what one process writes.

Greedy text of 1, 2 and 3 stages over memif and over AF_XDP equals `penstock eval`'s;
with a temperature and a seed all of them agree with each other, and another seed gives
another text.
"""
import sys

import runs
from runs import h

TOKENS = 48
SETUPS = [(driver, stages) for driver in ('memif', 'af_xdp') for stages in (1, 2, 3)]


def generate(driver, stages, *options):
    """The text of one run, and that it left nothing behind."""
    if driver == 'af_xdp':
        runs.need_af_xdp()
    with runs.nothing_left():
        out, _ = runs.run('--driver', driver, '--stages', stages, '--prompt', runs.PROMPT, '--tokens', TOKENS, *options)
    return out


def check_greedy(driver, stages, expected):
    """Greedy text against one process's. `run` ends its output with a newline of its own."""
    if not expected:
        raise h.Failed('eval gave no text')
    out = generate(driver, stages, '--temperature', 0)
    if out != expected + '\n':
        raise h.Failed(f'got      {out!r}\nexpected {expected!r}')


def check_seed(driver, stages, texts):
    """Sampled text against the other set-ups'."""
    out = generate(driver, stages, '--temperature', 0.8, '--seed', 7)
    texts[(driver, stages)] = out
    if len(out.split()) < 10:
        raise h.Failed(f'only {out!r}')
    for other, text in texts.items():
        if out != text:
            raise h.Failed(f'got      {out!r}\n{other} gave {text!r}')


def check_other_seed(texts):
    """The seed matters."""
    out = generate('memif', 3, '--temperature', 0.8, '--seed', 8)
    if out in texts.values():
        raise h.Failed(f'seeds 7 and 8 both gave {out!r}')


def main():
    runs.end_on_signal()
    tap = h.Tap()
    expected = tap.check('text of one process', lambda: runs.greedy_text(runs.shipped_model(), runs.PROMPT, TOKENS))
    for driver, stages in SETUPS:
        tap.check(f'greedy over {driver}, {stages} stages', check_greedy, driver, stages, expected)
    texts = {}
    for driver, stages in SETUPS:
        tap.check(f'seed 7 over {driver}, {stages} stages', check_seed, driver, stages, texts)
    tap.check('seed 8 gives another text', check_other_seed, texts)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
