#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""shipped.py: the models that ship with the project against their expected.json.

Each models/NAME.expected.json holds prompts with ids, 64 greedy ids and the text, as an
independent engine gave them.
"""
import glob
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h


def find_models():
    """[(name, path of the GGUF, expectations)]; the project ships at least one."""
    found = []
    for path in sorted(glob.glob(os.path.join(h.ROOT, 'models', '**', '*expected.json'), recursive=True)):
        with open(path, encoding='utf-8') as f:
            expected = json.load(f)
        stem = os.path.basename(path).removesuffix('expected.json').rstrip('.')
        folder = os.path.dirname(path)
        ggufs = sorted(glob.glob(os.path.join(folder, f'{stem}*.gguf')))
        if not ggufs:
            raise h.Failed(f'{path}: no GGUF beside it')
        found += [(os.path.relpath(gguf, h.ROOT), gguf, expected) for gguf in ggufs]
    if not found:
        raise h.Failed('no models/*expected.json')
    return found


def check_encode(gguf, case):
    """The prompt's ids."""
    status, stdout, stderr = h.penstock('tokenize', gguf, stdin=case['prompt'].encode())
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr[-1000:]}')
    got = json.loads(stdout)
    if got != case['prompt_ids']:
        raise h.Failed(f'{case["prompt"]!r}\ngot      {got}\nexpected {case["prompt_ids"]}')


def check_greedy(gguf, case, device, stages):
    """The greedy continuation. The file gives only the smallest margin of all its steps: where
    that is below 1e-4 the ids need not be equal, and the case says nothing."""
    if case['min_margin'] < 1e-4:
        raise h.Skipped(f'the reference\'s own margin is only {case["min_margin"]:.1e}')
    got = h.evaluate(gguf, case['prompt_ids'], '--device', device, '--stages', stages,
                     greedy=len(case['greedy_ids'])).greedy
    if got != case['greedy_ids']:
        first = next((i for i, (a, b) in enumerate(zip(got, case['greedy_ids'])) if a != b), len(got))
        raise h.Failed(f'{case["prompt"]!r}: differs from step {first}\ngot      {got}\nexpected {case["greedy_ids"]}')


def check_decode(gguf, case):
    """The text of the continuation. A first token's leading blank is the tokenizer's business."""
    status, stdout, stderr = h.penstock('tokenize', gguf, '--decode', stdin=json.dumps(case['greedy_ids']).encode())
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr[-1000:]}')
    if stdout.decode().strip() != case['text'].strip():
        raise h.Failed(f'got      {stdout.decode()!r}\nexpected {case["text"]!r}')


def main():
    tap = h.Tap()
    for name, gguf, expected in tap.check('models that ship', find_models) or []:
        # Sanitizers make each of these runs many times slower: two prompts do there.
        for case in expected['cases'][:2 if h.SLOWER > 1 else None]:
            prompt = case['prompt'][:24]
            tap.check(f'{name} encode "{prompt}"', check_encode, gguf, case)
            tap.check(f'{name} decode "{prompt}"', check_decode, gguf, case)
            for device, stages in (('cpu-ref', 1), ('cpu', 1), ('cpu', 3)):
                tap.check(f'{name} {device} {stages} stages "{prompt}"', check_greedy, gguf, case, device, stages)
        for case in expected.get('tokenizer_cases', []):
            tap.check(f'{name} encode {case["text"][:20]!r}', check_encode, gguf,
                      {'prompt': case['text'], 'prompt_ids': case['ids']})
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
