#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""shipped.py: the models that ship with the project against their expected.json.

Each models/NAME.expected.json holds what an independent engine gave: prompts with ids, greedy ids and
the text (llama, gpt2, bloom, t5), or sentences with the best fillings of a mask and the pooled
embedding (bert), and the perplexity of the text that training left out.
"""
import glob
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

# The reference's hidden states come from a GELU table in float16 and differ from exact ones by up to 1.7e-3;
# the fillings were computed from the PyTorch model's.
FILL_TOLERANCE, POOLED_TOLERANCE = 1e-3, 2e-3


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


def tokenize(gguf, text, *options):
    """The ids of a text."""
    status, stdout, stderr = h.penstock('tokenize', gguf, *options, stdin=text.encode())
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr[-1000:]}')
    return json.loads(stdout)


def check_encode(gguf, text, ids, *options):
    """A text's ids."""
    got = tokenize(gguf, text, *options)
    if got != ids:
        raise h.Failed(f'{text!r}\ngot      {got}\nexpected {ids}')


def check_greedy(gguf, case, device, stages):
    """The greedy continuation; of T5, the decoder's. The file gives only the smallest margin of all its
    steps: where that is below 1e-4 the ids need not be equal, and the case says nothing."""
    if case['min_margin'] < 1e-4:
        raise h.Skipped(f'the reference\'s own margin is only {case["min_margin"]:.1e}')
    decoder = ('--decoder-tokens', case['decoder_start']) if 'decoder_start' in case else ()
    got = h.evaluate(gguf, case.get('prompt_ids') or case['input_ids'], '--device', device, '--stages', stages, *decoder,
                     greedy=len(case['greedy_ids'])).greedy
    if got != case['greedy_ids']:
        first = next((i for i, (a, b) in enumerate(zip(got, case['greedy_ids'])) if a != b), len(got))
        raise h.Failed(f'differs from step {first}\ngot      {got}\nexpected {case["greedy_ids"]}')


def check_decode(gguf, case):
    """The text of the continuation (up to </s>, where it is known where that is). A first token's leading blank
    is the tokenizer's business."""
    ids = case['greedy_ids'][:case.get('length_to_eos')]
    status, stdout, stderr = h.penstock('tokenize', gguf, '--decode', stdin=json.dumps(ids).encode())
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr[-1000:]}')
    if stdout.decode().strip() != case['text'].strip():
        raise h.Failed(f'got      {stdout.decode()!r}\nexpected {case["text"]!r}')


def check_fill(gguf, case, device, stages):
    """The best fillings with their probabilities, and the mean of the hidden states."""
    result = h.evaluate(gguf, case['ids'], '--fill', '--device', device, '--stages', stages, outputs=('pooled',))
    fill, = result.line['fill']
    if fill['position'] != case['mask_position']:
        raise h.Failed(f'the mask was found at {fill["position"]}, expected {case["mask_position"]}')
    for (got, p), want in zip(fill['best'], case['top5']):
        if got != want['id'] or abs(p - want['p']) > FILL_TOLERANCE:
            raise h.Failed(f'token {got} with {p}, expected {want["id"]} with {want["p"]}')
    far = max(abs(a - b) for a, b in zip(result.values('pooled'), case['mean_pooled_embedding']))
    if far > POOLED_TOLERANCE or len(result.values('pooled')) != len(case['mean_pooled_embedding']):
        raise h.Failed(f'the embedding is off by {far:.1e}, expected at most {POOLED_TOLERANCE}')
    return f'embedding max_abs {far:.1e}'


def check_perplexity(gguf, expected):
    """Of an excerpt of the text that training left out, with windows that overlap, so that it is a little better
    than the stated one, which is of all of it without."""
    training = expected['training']
    stated = training.get('heldout_ppl') or training.get('heldout_mlm_ppl')
    status, stdout, stderr = h.penstock('bench', 'accuracy', gguf, '--wire', 'f32', '--kv', 'f32', '--prompts', 0, '--json', timeout=100)
    if status != 0:
        raise h.Failed(f'exit status {status}: {stderr[-1000:]}')
    got = json.loads(stdout)['rows'][0]['perplexity']
    if not 0.88 * stated <= got <= 1.02 * stated:
        raise h.Failed(f'{got}, expected a little less than {stated}')
    return f'{got:.2f} (stated: {stated:.2f})'


def check_case(tap, name, gguf, case):
    """All of one case."""
    text = case.get('prompt') or case.get('input') or case['sentence']
    ids = case.get('prompt_ids') or case.get('input_ids') or case['ids']
    masked = ('--parse-special',) if 'mask_position' in case else ()
    tap.check(f'{name} encode "{text[:24]}"', check_encode, gguf, text, ids, *masked)
    if 'greedy_ids' in case:
        tap.check(f'{name} decode "{text[:24]}"', check_decode, gguf, case)
    for device, stages in (('cpu-ref', 1), ('cpu', 1), ('cpu', 3)):
        check = check_greedy if 'greedy_ids' in case else check_fill
        tap.check(f'{name} {device} {stages} stages "{text[:24]}"', check, gguf, case, device, stages)


def main():
    tap = h.Tap()
    for name, gguf, expected in tap.check('models that ship', find_models) or []:
        # Sanitizers make each of these runs many times slower: two prompts do there.
        for case in expected['cases'][:2 if h.SLOWER > 1 else None]:
            check_case(tap, name, gguf, case)
        for case in expected.get('tokenizer_cases', []):
            tap.check(f'{name} encode {case["text"][:20]!r}', check_encode, gguf, case['text'], case['ids'])
        if h.SLOWER == 1 and 'heldout_span_ppl' not in expected['training']:
            tap.check(f'{name} perplexity', check_perplexity, gguf, expected)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
