#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""cases.py GROUP...: conformance cases against the numbers of an independent engine.

A GROUP is an architecture ("llama": its float cases), "quantized-ARCH" (its quantized
ones), "others" (architectures that the tests below do not name), or the name of a case.
A case is a folder with model.gguf, case.json and reference outputs, in cases/ or in
conformance/ of the third-party data; of one name in both the second is left out only if
it is the same. For each, on both back ends:
  - cpu-ref meets the strict tolerance (quantized: against the expanded weights, f32 activations);
  - cpu meets it too where it multiplies float32 activations; where it rounds them to 8 bits
    it meets the case's own for such engines;
  - greedy ids are equal up to the first step whose margin is below the engine's error;
  - bit for bit the same one token at a time, in 2 and 3 stages, and with 1 and 2 threads;
  - every instruction set that this machine has meets the same tolerance as the best;
  - a KV cache in F16 or Q8_0, and activations between stages as f16, bf16 or q8, cost no more
    than is stated below, and do cost something: they were really in use.
With sanitizers, which make each run many times slower, a part of it.
"""
import filecmp
import functools
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

CASES = os.path.join(h.ROOT, 'tests', 'conformance', 'cases')
DEVICES = ('cpu-ref', 'cpu')
ISAS = ('portable', 'avx2', 'avx512')
# Element types whose products `cpu` computes from float32 activations: it is held to the strict tolerance.
EXACT_ON_CPU = ('F32', 'F16', 'BF16')
# Groups that have a test of their own (meson.build).
NAMED = ('bert nomic-bert bloom falcon gemma gemma2 gemma3 gpt2 gptneox llama mpt olmo2 phi2 phi3 qwen2 qwen3 stablelm starcoder '
         'starcoder2 t5 t5encoder quantized-gpt2 quantized-llama').split()
# What rounding costs at most, as NMSE against the same run without it: the most that was seen in any case
# (in the order below 1.7e-6, 8.4e-4; 1.6e-7, 9.6e-6, 1.2e-4), with room for other shapes.
KV_NMSE = {'f16': 1e-5, 'q8_0': 3e-3}
WIRE_NMSE = {'f16': 1e-6, 'bf16': 5e-5, 'q8': 6e-4}


class Case:
    """A case's folder, its references and its tolerances."""

    def __init__(self, folder):
        self.name = os.path.basename(folder)
        if not folder.startswith(CASES):
            self.name += '*'
        self.folder = folder
        with open(os.path.join(folder, 'case.json'), encoding='utf-8') as f:
            self.json = json.load(f)
        self.model = os.path.join(folder, 'model.gguf')
        self.quantized = 'quantization' in self.json
        self.encodes = 'encoder_tokens' in self.json
        self.layers = self.json['config']['L']
        if self.encodes:
            self.layers += self.json['config'].get('D', self.layers)
        self.greedy = self.json.get('greedy_dequant') or self.json.get('greedy')
        tolerance = self.json['tolerance']
        self.strict = tolerance['vs_logits_dequant_f32_activations' if self.quantized else 'strict']
        self.rounds = self.quantized and self.json['quantization']['type'] not in EXACT_ON_CPU
        self.cpu = tolerance['vs_logits_dequant_quantized_activations'] if self.rounds else self.strict
        self.causal = 'logits.f32' in self.json['files']

    @functools.cached_property
    def references(self):
        """What is expected of each output."""
        return {output: self.read(file) for output, file in self.outputs()}

    @property
    def group(self):
        """The test that it belongs to."""
        group = f'quantized-{self.json["arch"]}' if self.quantized else self.json['arch']
        return group if group in NAMED else 'others'

    def outputs(self):
        """(eval's option, reference file) for each output that there is a reference of."""
        files = self.json['files']
        if 'logits.f32' in files:
            yield 'logits', 'logits_dequant.f32' if self.quantized else 'logits.f32'
        for output, file in (('embeddings', 'embeddings.f32'), ('embeddings', 'enc_embeddings.f32'), ('pooled', 'pooled.f32')):
            if file in files:
                yield output, file

    def read(self, file):
        """A reference's numbers, as many as case.json says."""
        values, count = h.read_f32(os.path.join(self.folder, file)), 1
        for extent in self.json['files'][file]:
            count *= extent
        if len(values) != count:
            raise h.Failed(f'{self.name}/{file}: {len(values)} numbers, expected {count}')
        return values

    def eval(self, *options, env=None):
        """Evaluates the case's tokens and its greedy continuation."""
        tokens = self.json['tokens']
        if self.encodes:
            options += ('--decoder-tokens', ','.join(map(str, tokens)))
            tokens = self.json['encoder_tokens']
        # LongRoPE chooses its factors by it.
        options += ('--ctx', self.json['settings']['n_ctx'])
        return h.evaluate(self.model, tokens, *options, greedy=len(self.greedy['ids']) if self.greedy else 0,
                          outputs=tuple(self.references), env=env)


def compare(case, result, limit):
    """All outputs against their references; remembers the largest error."""
    notes, result.error = [], 0
    for output, reference in case.references.items():
        diff = h.difference(result.values(output), reference)
        result.error = max(result.error, diff[0])
        notes.append(f'{output} {h.describe(diff, limit)}')
        if not h.within(diff, limit):
            raise h.Failed('; '.join(notes))
    return '; '.join(notes)


def check_outputs(case, device, results):
    """Runs the case at once and compares its outputs."""
    results[device] = case.eval('--device', device)
    return compare(case, results[device], case.strict if device == 'cpu-ref' else case.cpu)


def check_greedy(case, device, results):
    """Compares the greedy continuation."""
    result = need(results, device)
    return h.same_greedy(result.greedy, case.greedy['ids'], case.greedy['margin'], result.error)


def check_same(case, device, results, *options):
    """Another way to run it must give the same bits."""
    h.same_bits(case.eval('--device', device, *options), need(results, device))


def check_isa(case, isa):
    """Another instruction set must meet the same tolerance."""
    try:
        result = case.eval('--device', 'cpu', env={'PENSTOCK_ISA': isa})
    except h.Failed as reason:
        if 'this processor lacks it' in str(reason):
            raise h.Skipped(f'this processor has no {isa}') from None
        raise
    if not result.line['isa'].startswith(isa):
        raise h.Failed(f'asked for {isa}, the program used {result.line["isa"]}')
    note = compare(case, result, case.cpu)
    if case.greedy:
        h.same_greedy(result.greedy, case.greedy['ids'], case.greedy['margin'], result.error)
    return note


def check_lossy(case, device, results, limit, *options):
    """Rounding on the way costs a little, and something. Where products round their inputs to 8 bits a
    small change may turn a rounding, so there the case's own tolerance comes on top."""
    if device == 'cpu' and case.rounds:
        limit += case.cpu['nmse']
    result, exact = case.eval('--device', device, *options), need(results, device)
    worst = 0
    for output in case.references:
        worst = max(worst, h.difference(result.values(output), exact.values(output))[1])
    if worst > limit:
        raise h.Failed(f'nmse {worst:.1e}, expected at most {limit:.0e}')
    if worst == 0:
        raise h.Failed('the same bits as without it: it was not in use')
    return f'nmse {worst:.1e} (limit {limit:.0e})'


def check_too_many_stages(case):
    """More stages than blocks is an error that says so, not a crash."""
    status, _, stderr = h.penstock('eval', case.model, '--tokens', '1,2', '--logits' if case.causal else '--embeddings', os.devnull,
                                   '--stages', case.layers + 1)
    if status == 0 or str(case.layers) not in stderr:
        raise h.Failed(f'exit status {status}, expected an error that names the {case.layers} blocks; stderr: {stderr[-500:]}')


def need(results, device):
    """The run that the check compares with."""
    if device not in results:
        raise h.Failed('there is nothing to compare with: the run at once failed')
    return results[device]


def run_device(tap, case, device, results):
    """What is checked on each back end."""
    what = f'{case.name} {device}'
    tap.check(f'{what} outputs', check_outputs, case, device, results)
    if case.greedy:
        tap.check(f'{what} greedy', check_greedy, case, device, results)
        tap.check(f'{what} one token at a time', check_same, case, device, results, '--one-by-one')
    for stages in (2, 3):
        # The quantized cases have a single block: there is nothing to cut.
        if stages <= case.layers and (stages == 2 or h.SLOWER == 1):
            tap.check(f'{what} {stages} stages', check_same, case, device, results, '--stages', stages)


def run_case(tap, case):
    """All checks of one case."""
    results = {}
    for device in DEVICES:
        run_device(tap, case, device, results)
    if h.SLOWER == 1:
        for isa in ISAS:
            tap.check(f'{case.name} {isa}', check_isa, case, isa)
        for threads in (1, 2):
            tap.check(f'{case.name} cpu {threads} thread{"s" * (threads > 1)}', check_same, case, 'cpu', results,
                      '--threads', threads)
        tap.check(f'{case.name} more stages than blocks', check_too_many_stages, case)
    for device in DEVICES if h.SLOWER == 1 else ('cpu',):
        for kv, limit in KV_NMSE.items():
            # An encoder keeps no cache.
            if case.causal:
                tap.check(f'{case.name} {device} KV cache {kv}', check_lossy, case, device, results, limit, '--kv', kv)
    for wire, limit in WIRE_NMSE.items():
        if case.layers > 1:
            tap.check(f'{case.name} activations as {wire}', check_lossy, case, 'cpu', results, limit,
                      '--stages', 2, '--wire', wire)


def find_cases():
    """All folders: those of the tree, and those of the data that the tree has not."""
    own = sorted(os.listdir(CASES))
    found = [os.path.join(CASES, name) for name in own]
    try:
        more = h.data('conformance')
    except h.Skipped:
        more = None
    for name in sorted(os.listdir(more)) if more else []:
        model = os.path.join(more, name, 'model.gguf')
        if not os.path.exists(model):
            continue
        if name not in own or not filecmp.cmp(model, os.path.join(CASES, name, 'model.gguf'), shallow=False):
            found.append(os.path.join(more, name))
    return [folder for folder in found if os.path.exists(os.path.join(folder, 'case.json'))]


def main(groups):
    tap = h.Tap()
    cases = [Case(folder) for folder in find_cases()]
    chosen = [case for case in cases if case.group in groups or case.json['name'] in groups]
    for case in chosen:
        run_case(tap, case)
    if not chosen:
        if groups != ['others']:
            sys.exit(f'no case of {" ".join(groups)}')
        print('1..0 # SKIP no case of an architecture without a test of its own')
        return 0
    return tap.end()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
