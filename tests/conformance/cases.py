#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""cases.py NAME...: conformance cases against the logits of an independent engine.

Each case is a folder cases/NAME (or conformance/NAME in the third-party data) with
model.gguf, case.json and reference logits. For each, on both back ends:
  - cpu-ref meets the strict tolerance (quantized: against the expanded weights, f32 activations);
  - cpu meets it too where it multiplies float32 activations, which is everywhere but on
    Q8_0, whose activations it rounds to 8 bits: there the case's own for such engines;
  - greedy ids are equal up to the first step whose margin is below the engine's error;
  - bit for bit the same one token at a time, in 2 and 3 stages, and with 1 and 2 threads.
"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h

DEVICES = ('cpu-ref', 'cpu')


class Case:
    """A case's folder, its reference and its tolerances."""

    def __init__(self, name):
        own = os.path.join(h.ROOT, 'tests', 'conformance', 'cases', name)
        self.folder = own if os.path.isdir(own) else h.data('conformance', name)
        with open(os.path.join(self.folder, 'case.json'), encoding='utf-8') as f:
            self.json = json.load(f)
        self.model = os.path.join(self.folder, 'model.gguf')
        self.tokens = self.json['tokens']
        self.layers = self.json['config']['L']
        self.quantized = 'quantization' in self.json
        self.reference = h.read_f32(os.path.join(self.folder, 'logits_dequant.f32' if self.quantized else 'logits.f32'))
        self.greedy = self.json.get('greedy_dequant' if self.quantized else 'greedy') or self.json['greedy']
        tolerance = self.json['tolerance']
        self.strict = tolerance['vs_logits_dequant_f32_activations' if self.quantized else 'strict']
        rounds = self.quantized and self.json['quantization']['type'] == 'Q8_0'
        self.own = tolerance['vs_logits_dequant_quantized_activations'] if rounds else self.strict

    def eval(self, device, *options):
        """Evaluates the case's tokens and its greedy continuation."""
        return h.evaluate(self.model, self.tokens, '--device', device, *options, greedy=len(self.greedy['ids']))


def check_logits(case, device, results):
    """Runs the case at once and compares its logits."""
    result = results[device] = case.eval(device)
    diff = h.difference(result.logits, case.reference)
    result.error = diff[0]
    limit = case.strict if device == 'cpu-ref' else case.own
    if not h.within(diff, limit):
        raise h.Failed(h.describe(diff, limit))
    return h.describe(diff, limit)


def check_greedy(case, device, results):
    """Compares the greedy continuation."""
    result = need(results, device)
    return h.same_greedy(result.greedy, case.greedy['ids'], case.greedy['margin'], result.error)


def check_same(case, device, results, *options):
    """Another way to run it must give the same bits."""
    h.same_bits(case.eval(device, *options), need(results, device))


def check_too_many_stages(case):
    """More stages than blocks is an error that says so, not a crash."""
    status, _, stderr = h.penstock('eval', case.model, '--tokens', '1,2', '--logits', os.devnull,
                                   '--stages', case.layers + 1)
    if status == 0 or str(case.layers) not in stderr:
        raise h.Failed(f'exit status {status}, expected an error that names the {case.layers} blocks; stderr: {stderr[-500:]}')


def need(results, device):
    """The run that the check compares with."""
    if device not in results:
        raise h.Failed('there is nothing to compare with: the run at once failed')
    return results[device]


def run_case(tap, name):
    """All checks of one case."""
    try:
        case = Case(name)
    except h.Skipped as reason:
        text = str(reason)

        def skip():
            raise h.Skipped(text)
        tap.check(name, skip)
        return
    results = {}
    for device in DEVICES:
        what = f'{name} {device}'
        tap.check(f'{what} logits', check_logits, case, device, results)
        tap.check(f'{what} greedy', check_greedy, case, device, results)
        tap.check(f'{what} one token at a time', check_same, case, device, results, '--one-by-one')
        for stages in (2, 3):
            # The quantized cases have a single block: there is nothing to cut.
            if stages <= case.layers:
                tap.check(f'{what} {stages} stages', check_same, case, device, results, '--stages', stages)
    for threads in (1, 2):
        tap.check(f'{name} cpu {threads} thread{"s" * (threads > 1)}', check_same, case, 'cpu', results,
                  '--threads', threads)
    tap.check(f'{name} more stages than blocks', check_too_many_stages, case)


def main(names):
    tap = h.Tap()
    for name in names:
        run_case(tap, name)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
