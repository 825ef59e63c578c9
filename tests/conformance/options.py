#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""options.py: what `eval` and `bench` do with the models that ship and with options that do not fit them.

Passes, embeddings, element types and context sizes; every senseless combination is an
error that names the option and says what to use.
"""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

LLAMA, GPT2, T5, BERT = (os.path.join(h.ROOT, 'models', f'demo-{name}-f16.gguf')
                         for name in ('llama', 'gpt2', 't5', 'bert'))
PROMPT = '46,36,3,90,59,265,35,152,85,375,101,59,36,4,38,125,1'
MASKED = '2,104,102,4,211,146,476,3'


def succeed(*args):
    """The one JSON object that a command prints."""
    status, stdout, stderr = h.penstock(*args)
    if status != 0:
        raise h.Failed(f'{args}: exit status {status}: {stderr[-1000:]}')
    return json.loads(stdout)


def floats(path):
    """A file of float32."""
    return list(h.read_f32(path))


def check_refused(words, *args):
    """Exit status 1 or 2 and a text with each of the words."""
    status, stdout, stderr = h.penstock(*args)
    missing = [word for word in words if word not in stderr]
    if status not in (1, 2) or stdout or missing:
        raise h.Failed(f'{args}: exit status {status}, stdout {stdout[:100]!r}, lacks {missing}: {stderr[-600:]}')


def check_t5_in_any_cut():
    """Encoder rows, pooled row, logits and greedy ids: the same bytes for any number of stages, one by one or not."""
    seen = set()
    for options in ([], ['--stages', 2], ['--stages', 3], ['--stages', 4], ['--one-by-one'], ['--threads', 1]):
        with tempfile.TemporaryDirectory() as folder:
            out = {name: os.path.join(folder, name) for name in ('logits', 'embeddings', 'pooled')}
            files = [word for name, path in out.items() for word in (f'--{name}', path)]
            line = succeed('eval', T5, '--tokens', PROMPT, '--decoder-tokens', '0,3,36', '--greedy', 8, *files, *options)
            content = []
            for path in out.values():
                with open(path, 'rb') as f:
                    content.append(f.read())
        if [len(data) // 4 for data in content] != [3 * line['n_vocab'], 17 * line['n_embd'], line['n_embd']]:
            raise h.Failed(f'sizes: {[len(data) for data in content]}')
        if line['n_decoder_tokens'] != 3 or line['n_tokens'] != 17 or 'encode_ms' not in line:
            raise h.Failed(f'line: {line}')
        seen.add((tuple(content), tuple(line['greedy'])))
    if len(seen) != 1:
        raise h.Failed(f'{len(seen)} different results')


def check_t5_default_decoder_start():
    """Without --decoder-tokens the file's start token; embeddings alone run no decoder."""
    default = succeed('eval', T5, '--tokens', PROMPT, '--greedy', 8)['greedy']
    if default != succeed('eval', T5, '--tokens', PROMPT, '--decoder-tokens', 0, '--greedy', 8)['greedy']:
        raise h.Failed(f'{default}')
    with tempfile.TemporaryDirectory() as folder:
        line = succeed('eval', T5, '--tokens', PROMPT, '--embeddings', os.path.join(folder, 'e'))
    if line['greedy'] or 'n_decoder_tokens' in line:
        raise h.Failed(f'{line}')


def check_bert():
    """Embeddings and their mean; logits of the head, and the likeliest tokens from them."""
    with tempfile.TemporaryDirectory() as folder:
        out = {name: os.path.join(folder, name) for name in ('embeddings', 'pooled', 'logits')}
        line = succeed('eval', BERT, '--tokens', MASKED, '--embeddings', out['embeddings'], '--pooled', out['pooled'],
                       '--fill', '--logits', out['logits'], '--stages', 2)
        rows, pooled, logits = (floats(out[name]) for name in ('embeddings', 'pooled', 'logits'))
    width, n_vocab = line['n_embd'], line['n_vocab']
    if len(rows) != 8 * width or len(pooled) != width or len(logits) != 8 * n_vocab or line['pooling'] != 'mean':
        raise h.Failed(f'{len(rows)} {len(pooled)} {len(logits)} {line}')
    worst = max(abs(sum(rows[i::width]) / 8 - pooled[i]) for i in range(width))
    if worst > 1e-5:
        raise h.Failed(f'pooled differs from the mean by {worst}')
    (fill,) = line['fill']
    at_mask = logits[3 * n_vocab:4 * n_vocab]
    ids = sorted(range(n_vocab), key=lambda i: -at_mask[i])[:8]
    if fill['position'] != 3 or [i for i, _ in fill['best']] != ids or not 0.66 < fill['best'][0][1] < 0.67:
        raise h.Failed(f'{fill}, from the logits {ids}')


def check_element_types():
    """Each type changes the logits a little, and none of them with a single stage's wire."""
    tokens = [1, 17, 300, 42, 999, 7]
    exact = h.evaluate(LLAMA, tokens).logits
    for options, most in ((['--wire', 'f16', '--stages', 2], 1e-6), (['--wire', 'bf16', '--stages', 2], 1e-4),
                          (['--wire', 'q8', '--stages', 2], 1e-3), (['--kv', 'f16'], 1e-6), (['--kv', 'q8_0'], 1e-3)):
        _, nmse = h.difference(h.evaluate(LLAMA, tokens, *options).logits, exact)
        if not 0 < nmse < most:
            raise h.Failed(f'{options}: NMSE {nmse}, expected more than 0 and less than {most}')
    h.same_bits(h.evaluate(LLAMA, tokens, '--wire', 'q8'), h.evaluate(LLAMA, tokens))


def check_context():
    """--ctx is what the cache is made for; as many tokens as it has positions fit, one more does not."""
    line = succeed('eval', LLAMA, '--tokens', '1,2,3,4', '--greedy', 3, '--ctx', 6)
    if line['ctx'] != 6 or len(line['greedy']) != 3:
        raise h.Failed(f'{line}')
    check_refused(['7 positions', '--ctx is 6'], 'eval', LLAMA, '--tokens', '1,2,3,4', '--greedy', 4, '--ctx', 6)
    check_refused(['257 positions', 'has 256'], 'eval', GPT2, '--tokens', '1,2', '--greedy', 256)
    for greedy, says in ((255, False), (256, True)):
        _, _, stderr = h.penstock('eval', LLAMA, '--tokens', '1,2', '--greedy', greedy)
        if ('trained on 256' in stderr) != says:
            raise h.Failed(f'{greedy + 1} positions: {stderr!r}')
    if succeed('eval', GPT2, '--tokens', '1,2', '--ctx', 300)['ctx'] != 256:
        raise h.Failed('a context of more positions than the model has')


def check_accuracy():
    """A row for each type, the first in float32; perplexities that are near each other and not the same."""
    got = succeed('bench', 'accuracy', LLAMA, '--limit', 1200, '--prompts', 2, '--greedy', 12, '--stages', 3, '--json')
    types = [(row['wire'], row['kv']) for row in got['rows']]
    if types != [('f32', 'f32'), ('f16', 'f32'), ('bf16', 'f32'), ('q8', 'f32'), ('f32', 'f16'), ('f32', 'q8_0')]:
        raise h.Failed(f'rows {types}')
    first = got['rows'][0]
    if got['scored'] != 1199 or not 12 < first['perplexity'] < 22 or first['equal_share'] != 1 or first['prompts_equal'] != 2:
        raise h.Failed(f'{got}')
    for row in got['rows'][1:]:
        if not 0 < abs(row['perplexity_change']) < 0.01 or not 0 <= row['equal_share'] <= 1:
            raise h.Failed(f'{row}')
    if [row['bytes_per_token'] for row in got['rows'][:4]] != [512, 256, 256, 136]:
        raise h.Failed(f'{got}')


def check_accuracy_of_encoders():
    """T5: spans left out of the text, and of ids continuations only. BERT: embeddings, and masked tokens."""
    spans = succeed('bench', 'accuracy', T5, '--limit', 640, '--prompts', 2, '--greedy', 6, '--json')
    if spans['scored'] != 10 * 4 * 3 or any(not 20 < row['perplexity'] < 400 for row in spans['rows']):
        raise h.Failed(f'{spans}')
    masked = succeed('bench', 'accuracy', BERT, '--limit', 640, '--json')
    if not 80 < masked['scored'] < 95 or any(not 20 < row['perplexity'] < 200 for row in masked['rows']):
        raise h.Failed(f'{masked}')
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'ids')
        with open(path, 'w', encoding='ascii') as f:
            f.write(' '.join([PROMPT.replace(',', ' ')] * 4))
        t5 = succeed('bench', 'accuracy', T5, '--tokens-file', path, '--prompts', 2, '--greedy', 6, '--json')['rows']
        bert = succeed('bench', 'accuracy', BERT, '--tokens-file', path, '--json')['rows']
    if any(row['perplexity'] is not None or row['equal_share'] is None for row in t5):
        raise h.Failed(f'{t5}')
    # An encoder keeps its keys and values in float32 whatever the type of the cache.
    if any((row['wire'] == 'f32') != (row['embedding_nmse'] == 0) or row['embedding_nmse'] >= 1e-3 for row in bert):
        raise h.Failed(f'{bert}')


def check_bench_model():
    """Speeds of an encoder alone and of an encoder with a decoder; sizes that the model gives."""
    bert = succeed('bench', 'model', BERT, '--reps', 1, '--json')
    if bert['prompt'] != 128 or bert['gen'] != 0 or bert['gen_tokens_per_s'] is not None or not bert['prompt_tokens_per_s'] > 0:
        raise h.Failed(f'{bert}')
    t5 = succeed('bench', 'model', T5, '--reps', 1, '--prompt', 24, '--gen', 8, '--kv', 'f16', '--wire', 'bf16', '--stages', 3,
                 '--ctx', 40, '--json')
    if (t5['kv'], t5['wire'], t5['ctx']) != ('f16', 'bf16', 40) or not t5['gen_tokens_per_s'] > 0:
        raise h.Failed(f'{t5}')


REFUSED = [
    (['--decoder-tokens', 'llama'], 'eval', LLAMA, '--tokens', '1', '--decoder-tokens', '1'),
    (['--embeddings', 'llama'], 'eval', LLAMA, '--tokens', '1', '--embeddings', os.devnull),
    (['--pooled', 'llama'], 'eval', LLAMA, '--tokens', '1', '--pooled', os.devnull),
    (['--fill', 'head'], 'eval', LLAMA, '--tokens', '1', '--fill'),
    (['--greedy', 'bert'], 'eval', BERT, '--tokens', MASKED, '--greedy', '2'),
    (['--fill', 'mask token'], 'eval', BERT, '--tokens', '2,104,3', '--fill'),
    (['129', '128'], 'eval', BERT, '--tokens', ','.join(['104'] * 129)),
    (['--fill', 'head'], 'eval', T5, '--tokens', '1', '--fill'),
    (['--decoder-tokens'], 'eval', T5, '--tokens', '1', '--decoder-tokens', ''),
    (['q4', 'q8_0'], 'eval', LLAMA, '--tokens', '1', '--kv', 'q4'),
    (['q8_0', 'bf16'], 'eval', LLAMA, '--tokens', '1', '--wire', 'q8_0'),
    (['--gen', 'bert'], 'bench', 'model', BERT, '--gen', '3'),
    (['--prompt 0'], 'bench', 'model', T5, '--prompt', '0'),
    (['--ctx is 20'], 'bench', 'model', LLAMA, '--ctx', '20'),
    (['--stages 1'], 'bench', 'accuracy', LLAMA, '--stages', '1', '--wire', 'q8'),
    (['take one'], 'bench', 'accuracy', LLAMA, '--text', os.devnull, '--tokens-file', os.devnull),
    (['no token ids'], 'bench', 'accuracy', LLAMA, '--tokens-file', os.devnull),
    (['no text'], 'bench', 'accuracy', LLAMA, '--text', os.devnull),
]


def main():
    tap = h.Tap()
    tap.check('T5 in any cut', check_t5_in_any_cut)
    tap.check('T5 decoder start', check_t5_default_decoder_start)
    tap.check('BERT embeddings, logits and fill-mask', check_bert)
    tap.check('element types of wire and cache', check_element_types)
    tap.check('context', check_context)
    tap.check('bench accuracy', check_accuracy)
    tap.check('bench accuracy of encoders', check_accuracy_of_encoders)
    tap.check('bench model of encoders', check_bench_model)
    for words, *args in REFUSED:
        tap.check('refused: ' + ' '.join(os.path.basename(word)[:30] for word in args), check_refused, words, *args)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
