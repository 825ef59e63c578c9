#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""families.py: encoder-decoder models, encoders and ALiBi through the real processes.

What T5 writes over 1 to 4 stages, what BERT gives as embeddings and for masked places,
and what every type of the KV cache and of activations on the wire does, is to the bit
what `penstock eval` gives with the same types in one process; and so is what each
architecture of the conformance cases gives over two stages. Prompts that cannot be
served, and requests that the model is not for, end with a text that says what mends it.
"""
import contextlib
import glob
import json
import os
import struct
import sys
import tempfile

import runs
from runs import h

TOKENS = 24
T5_PROMPTS = ['And the <extra_id_0> said unto Moses, Speak unto the <extra_id_1> of Israel',
              'In the beginning God <extra_id_0> the heaven and the <extra_id_1>.',
              'the <extra_id_0>',
              'And it came to pass in those <extra_id_0> that there went out a decree from <extra_id_1> Augustus']
BERT_PROMPTS = ['And the [MASK] said unto Moses', 'In the beginning God created the heaven and the earth']
MASKED = 'And the [MASK] said unto Moses'
MASKED_WORD = 'lord'


def model(name):
    """A demo model that ships."""
    return os.path.join(h.ROOT, 'models', f'demo-{name}-f16.gguf')


def tokens_of(name, prompt):
    """The ids of a prompt, with what the model puts around it."""
    status, out, err = h.penstock('tokenize', model(name), '--parse-special', stdin=prompt.encode())
    if status != 0:
        raise h.Failed(err)
    return json.loads(out)


def evaluate(name, prompt, *options):
    """The JSON line of `penstock eval`."""
    ids = ','.join(map(str, tokens_of(name, prompt)))
    status, out, err = h.penstock('eval', model(name), '--tokens', ids, *options)
    if status != 0:
        raise h.Failed(err)
    return json.loads(out)


def results(name, prompts, *options, af_xdp=False):
    """The results of one `penstock run --json` of several prompts."""
    words = [word for prompt in prompts for word in ('--prompt', prompt)]
    if af_xdp:
        runs.need_af_xdp()
        words += ['--driver', 'af_xdp']
    with runs.nothing_left():
        out, _ = runs.run('--model', model(name), '--json', '--temperature', 0, '--tokens', TOKENS, *words, *options)
    found = json.loads(out)['results']
    if [r['prompt'] for r in found] != list(prompts):
        raise h.Failed(f'results of {[r["prompt"] for r in found]}')
    return found


def until_end(ids, eos):
    """What a generation gives of eval's ids, which go on behind the end."""
    return ids[:ids.index(eos)] if eos in ids else ids


def check_text(name, prompts, eos, stages, options=(), af_xdp=False):
    """Generated ids against eval's with the same types; several prompts run together."""
    found = results(name, prompts, '--stages', stages, *options, af_xdp=af_xdp)
    for prompt, result in zip(prompts, found):
        expected = until_end(evaluate(name, prompt, '--greedy', TOKENS, '--stages', stages, *options)['greedy'], eos)
        if not expected or result['token_ids'] != expected:
            raise h.Failed(f'{prompt!r}: got {result["token_ids"]}, expected {expected}')
        reason = 'length' if len(expected) == TOKENS else 'stop'
        if result['reason'] != reason or len(result['timing']['hops']) != stages + 1:
            raise h.Failed(f'{prompt!r}: {result["reason"]}, expected {reason}; {len(result["timing"]["hops"])} hops')
    return f'{len(prompts)} prompts, {[len(r["token_ids"]) for r in found]} tokens'


def check_decoded(name, prompt, eos):
    """The text on stdout is what the ids decode to."""
    expected = until_end(evaluate(name, prompt, '--greedy', TOKENS)['greedy'], eos)
    status, text, err = h.penstock('tokenize', model(name), '--decode', stdin=json.dumps(expected).encode())
    if status != 0:
        raise h.Failed(err)
    with runs.nothing_left():
        out, _ = runs.run('--model', model(name), '--temperature', 0, '--tokens', TOKENS, '--prompt', prompt)
    if not text.strip() or out != text.decode() + '\n':
        raise h.Failed(f'got {out!r}, expected {text!r}')
    return repr(out[:48])


def floats(values):
    """Numbers of JSON as the float32 bytes that they stand for."""
    return struct.pack(f'<{len(values)}f', *values)


def same_floats(values, path, what):
    """JSON's numbers against a file that eval wrote, to the bit."""
    with open(path, 'rb') as f:
        expected = f.read()
    if not expected or floats(values) != expected:
        raise h.Failed(f'{what}: {len(values)} values differ from the {len(expected) // 4} of eval')


def check_embeddings(name, stages, options=(), af_xdp=False):
    """Pooled and per-token embeddings of several prompts."""
    pooled = results(name, BERT_PROMPTS, '--embed', '--stages', stages, *options, af_xdp=af_xdp)
    rows = results(name, BERT_PROMPTS, '--embed', 'tokens', '--stages', stages, *options, af_xdp=af_xdp)
    with tempfile.TemporaryDirectory() as folder:
        for prompt, one, each in zip(BERT_PROMPTS, pooled, rows):
            out = [os.path.join(folder, what) for what in ('pooled', 'rows')]
            line = evaluate(name, prompt, '--pooled', out[0], '--embeddings', out[1], '--stages', stages, *options)
            same_floats(one['embedding'], out[0], f'{prompt!r} pooled')
            same_floats([x for row in each['embeddings'] for x in row], out[1], f'{prompt!r} per token')
            if len(each['embeddings']) != line['n_tokens'] or one['prompt_tokens'] != line['n_tokens']:
                raise h.Failed(f'{len(each["embeddings"])} rows of {line["n_tokens"]} tokens')


def check_fill():
    """The likeliest word, as JSON and as text."""
    result = results('bert', [MASKED], '--fill-mask', '--stages', 2)[0]
    (mask,) = result['masks']
    best = mask['candidates'][0]
    if best['text'].strip() != MASKED_WORD or mask['position'] != tokens_of('bert', MASKED).index(4):
        raise h.Failed(json.dumps(mask))
    if not 0.5 < best['probability'] < 1 or len(mask['candidates']) != 8:
        raise h.Failed(json.dumps(mask))
    with runs.nothing_left():
        out, _ = runs.run('--model', model('bert'), '--fill-mask', '--stages', 1, '--prompt', MASKED)
    if MASKED_WORD not in out.splitlines()[2].split():
        raise h.Failed(out)
    return f'{best["text"].strip()}, {100 * best["probability"]:.1f} %'


def refused(*args, expect):
    """`penstock run` must fail, with a text that has all the words."""
    with runs.nothing_left():
        status, out, err = runs.Run('run', '--topology', runs.DEFAULT_TOPOLOGY, '--stages', 1, *args).wait()
    missing = [word for word in expect if word not in err]
    if status != 1 or missing:
        raise h.Failed(f'exit status {status}, no {missing} in: {out}{err}')


def check_too_long():
    """Longer than the context or than the message that an encoder's input has to fit."""
    refused('--model', model('llama'), '--ctx', 4, '--prompt', 'Now when Jesus was come into the house',
            expect=['tokens, the context holds 4', 'model.context', '--ctx'])
    refused('--model', model('bert'), '--embed', '--ctx', 6, '--prompt', MASKED,
            expect=['8 tokens, the context holds 6', 'model.context'])
    refused('--model', model('bert'), '--embed', '--ctx', 100000, '--prompt', MASKED,
            expect=['model.context is 100000', 'at most 128'])
    refused('--model', model('t5'), '--batch', 8, '--prompt', T5_PROMPTS[0],
            expect=['17 tokens', 'holds 8', 'model.max_batch_tokens', '--batch'])


def check_context_end():
    """The text ends where the context does, with that reason."""
    with runs.nothing_left():
        out, _ = runs.run('--model', model('llama'), '--ctx', 16, '--stages', 2, '--tokens', 1000, '--temperature', 0,
                          '--json', '--prompt', runs.PROMPT)
    (result,) = json.loads(out)['results']
    if result['reason'] != 'length' or result['prompt_tokens'] + result['tokens'] != 16:
        raise h.Failed(out)


def check_wrong_asks():
    """What a model cannot do is said together with what it can."""
    refused('--model', model('bert'), '--prompt', 'x', expect=['bert gives embeddings', '--embed', '--fill-mask'])
    refused('--model', model('llama'), '--embed', '--prompt', 'x', expect=['llama gives text', 'without --embed'])
    refused('--model', model('t5'), '--fill-mask', '--prompt', 'x', expect=['no masked-language-model head'])
    refused('--model', model('bert'), '--fill-mask', '--prompt', 'no mask', expect=['no mask token'])


def cases():
    """{architecture: (model, case)} of the first conformance case of each."""
    found = {}
    for path in sorted(glob.glob(os.path.join(h.ROOT, 'tests', 'conformance', 'cases', '*', 'case.json'))):
        with open(path, encoding='utf-8') as f:
            case = json.load(f)
        if not os.path.basename(os.path.dirname(path)).startswith('q-'):
            found.setdefault(case['arch'], (os.path.join(os.path.dirname(path), 'model.gguf'), case))
    return found


def check_case(path, case):
    """A model of random weights over two stages, by its ids: tokens, or the embedding of each token."""
    ids = ','.join(map(str, case.get('encoder_tokens') or case['tokens']))
    options = ('--temperature', 0, '--tokens', 12) if 'greedy' in case else ('--embed', 'tokens')
    with runs.nothing_left(), tempfile.TemporaryDirectory() as folder:
        out, _ = runs.run('--model', path, '--stages', 2, '--prompt-ids', ids, '--json', *options)
        (result,) = json.loads(out)['results']
        rows = os.path.join(folder, 'rows')
        wanted = ('--greedy', 12) if 'greedy' in case else ('--embeddings', rows)
        status, line, err = h.penstock('eval', path, '--tokens', ids, *wanted)
        if status != 0:
            raise h.Failed(err)
        if 'greedy' not in case:
            same_floats([x for row in result['embeddings'] for x in row], rows, 'embeddings')
        elif result['token_ids'] != json.loads(line)['greedy']:
            raise h.Failed(f'got {result["token_ids"]}, expected {line.decode()}')


@contextlib.contextmanager
def with_template(template):
    """The llama demo model with a chat template in it: one more key, of a length that moves all by whole alignments."""
    with open(model('llama'), 'rb') as f:
        magic, version, n_tensors, n_keys = struct.unpack('<4sIQQ', f.read(24))
        rest = f.read()
    name = b'tokenizer.chat_template'
    text = template.encode() + b' ' * (-(8 + len(name) + 4 + 8 + len(template.encode())) % 32)
    key = struct.pack('<Q', len(name)) + name + struct.pack('<IQ', 8, len(text)) + text
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'chat.gguf')
        with open(path, 'wb') as f:
            f.write(struct.pack('<4sIQQ', magic, version, n_tensors, n_keys + 1) + key + rest)
        yield path


def check_own_template():
    """--chat alone takes the file's template; one that is not known is said, with names to ask for."""
    options = ('--prompt', 'Who was Moses?', '--temperature', 0, '--tokens', TOKENS)
    with runs.nothing_left():
        named, _ = runs.run('--chat', 'chatml', *options)
        with with_template("{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}") as path:
            own, _ = runs.run('--model', path, '--chat', *options)
    if own != named or not own.strip():
        raise h.Failed(f'got {own!r}, expected {named!r}')
    with with_template('{{ bos_token }}Q: {{ m.content }} A:') as path:
        refused('--model', path, '--chat', '--prompt', 'x', expect=['none that is known', 'llama3'])


def check_chat():
    """A prompt in a named template is that text; a file without a template is said, with the names."""
    refused('--model', model('llama'), '--chat', '--prompt', 'x', expect=['chatml', 'zephyr'])
    ids = tokens_of('llama', '[INST] Who was Moses? [/INST]')
    with runs.nothing_left():
        plain, _ = runs.run('--prompt-ids', ','.join(map(str, ids)), '--temperature', 0, '--tokens', TOKENS)
        chat, _ = runs.run('--chat', 'llama2', '--prompt', 'Who was Moses?', '--temperature', 0, '--tokens', TOKENS)
    if chat != plain or not chat.strip():
        raise h.Failed(f'got {chat!r}, expected {plain!r}')


def main():
    runs.end_on_signal()
    tap = h.Tap()
    for stages in (1, 2, 3, 4):
        tap.check(f'T5, {stages} stages', check_text, 't5', T5_PROMPTS, 1, stages)
    tap.check('T5 over AF_XDP', check_text, 't5', T5_PROMPTS, 1, 3, (), True)
    tap.check('text of T5', check_decoded, 't5', T5_PROMPTS[0], 1)
    tap.check('text of bloom', check_decoded, 'bloom', runs.PROMPT, None)
    tap.check('bloom, 3 stages', check_text, 'bloom', [runs.PROMPT, 'Then the king'], None, 3)
    for stages in (1, 2, 4):
        tap.check(f'BERT embeddings, {stages} stages', check_embeddings, 'bert', stages)
    tap.check('embeddings of the encoder of T5', check_embeddings, 't5', 3)
    tap.check('fill-mask', check_fill)
    for wire in ('f16', 'bf16', 'q8'):
        tap.check(f'llama, {wire} on the wire', check_text, 'llama', [runs.PROMPT, 'Then'], None, 3, ('--wire', wire))
    tap.check('T5, q8 on the wire over AF_XDP', check_text, 't5', T5_PROMPTS, 1, 4, ('--wire', 'q8'), True)
    tap.check('BERT, f16 on the wire', check_embeddings, 'bert', 3, ('--wire', 'f16'))
    for kv in ('f16', 'q8_0'):
        tap.check(f'llama, KV cache of {kv}', check_text, 'llama', [runs.PROMPT, 'Then'], None, 2, ('--kv', kv))
    tap.check('T5, KV cache of q8_0', check_text, 't5', T5_PROMPTS, 1, 2, ('--kv', 'q8_0'))
    tap.check('prompts too long', check_too_long)
    tap.check('the end of the context', check_context_end)
    tap.check('what models cannot do', check_wrong_asks)
    tap.check('chat', check_chat)
    tap.check('chat in the template of the file', check_own_template)
    for arch, (path, case) in cases().items():
        tap.check(f'{arch}, 2 stages', check_case, path, case)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
