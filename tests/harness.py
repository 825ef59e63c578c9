# SPDX-License-Identifier: BSD-3-Clause
"""What the conformance and e2e programs share: running penstock, comparing logits, TAP.

Standard library only. The binary is $PENSTOCK; the project's root is
$PENSTOCK_SOURCE_ROOT. Third-party test data is not part of the project: it is looked
for in $PENSTOCK_DATA_DIR (a folder with conformance/, models/ and tokenizers/), by
default a folder `shared` beside the project's.
"""
import array
import json
import math
import os
import subprocess
import sys
import tempfile

import leftovers

ROOT = os.environ.get('PENSTOCK_SOURCE_ROOT') or os.path.realpath(os.path.join(os.path.dirname(__file__), '..'))
PENSTOCK = os.environ.get('PENSTOCK') or os.path.join(ROOT, 'build', 'cli', 'penstock')
DATA = os.environ.get('PENSTOCK_DATA_DIR') or os.path.join(ROOT, '..', 'shared')
SLOWER = 8 if 'asan' in PENSTOCK else 1


class Failed(Exception):
    """A check did not hold; the text says how."""


class Skipped(Exception):
    """A check could not be made here; the text says why."""


class Tap:
    """Collects checks and prints them as TAP; the plan comes last."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def check(self, name, function, *args):
        """Runs function(*args): what it returns is a note, what it raises the result."""
        self.count += 1
        try:
            note = function(*args)
        except Skipped as reason:
            print(f'ok {self.count} - {name} # SKIP {reason}', flush=True)
            return None
        except Failed as reason:
            self.failed += 1
            print(f'not ok {self.count} - {name}', flush=True)
            for line in str(reason).splitlines():
                print(f'# {line}', flush=True)
            return None
        print(f'ok {self.count} - {name}{f": {note}" if isinstance(note, str) else ""}'.replace('#', 'nr '), flush=True)
        return note

    def end(self):
        """Prints the plan; returns the exit status."""
        print(f'1..{self.count}', flush=True)
        return 1 if self.failed or not self.count else 0


def data(*parts):
    """A path in the third-party data, or Skipped where it is not here."""
    path = os.path.join(DATA, *parts)
    if not os.path.exists(path):
        raise Skipped(f'data not here: {os.path.join("$PENSTOCK_DATA_DIR", *parts)}')
    return path


def penstock(*args, stdin=b'', timeout=60, env=None):
    """Runs penstock; returns (exit status, stdout, stderr). A crash or a hang is a failure."""
    command = [PENSTOCK, *map(str, args)]
    try:
        done = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, **(env or {})})
    except OSError as error:
        raise Failed(f'{PENSTOCK}: {error.strerror}') from None
    leftovers.note(done.pid)
    try:
        out, err = done.communicate(stdin, timeout * SLOWER)
    except subprocess.TimeoutExpired:
        leftovers.end_process(done.pid)
        done.communicate()
        raise Failed(f'{" ".join(command)[:200]}: still running after {timeout * SLOWER} s') from None
    stderr = err.decode(errors='replace')
    if done.returncode < 0 or done.returncode == 99 or 'runtime error:' in stderr:
        raise Failed(f'{" ".join(command)[:200]}: ended with {done.returncode}\n{stderr[-3000:]}')
    return done.returncode, out, stderr


class Result:
    """What one `penstock eval` gave: the bytes of each output file and the JSON line."""

    def __init__(self, raw, line):
        self.raw = raw
        self.greedy = line.get('greedy')
        self.line = line

    def values(self, output):
        """An output's numbers."""
        return to_f32(self.raw[output])

    @property
    def logits(self):
        """Those of the logits."""
        return self.values('logits')


def evaluate(model, tokens, *options, greedy=0, timeout=60, outputs=('logits',), env=None):
    """Runs `penstock eval` and returns its Result; anything but success is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: os.path.join(folder, f'{name}.f32') for name in outputs}
        args = ['eval', model, '--tokens', ','.join(map(str, tokens)), *options]
        for name, path in paths.items():
            args += [f'--{name}', path]
        if greedy:
            args += ['--greedy', greedy]
        status, stdout, stderr = penstock(*args, timeout=timeout, env=env)
        if status != 0:
            raise Failed(f'penstock {" ".join(map(str, args))[:120]}: exit status {status}\n{stderr[-2000:]}')
        lines = stdout.decode().splitlines()
        if len(lines) != 1:
            raise Failed(f'expected one line of JSON on stdout, got {len(lines)}')
        try:
            line = json.loads(lines[0])
        except ValueError as error:
            raise Failed(f'stdout is no JSON: {error}: {lines[0][:200]}') from None
        raw = {}
        for name, path in paths.items():
            with open(path, 'rb') as f:
                raw[name] = f.read()
        return Result(raw, line)


def to_f32(raw):
    """Bytes of little-endian float32 as numbers."""
    values = array.array('f', raw)
    if sys.byteorder == 'big':
        values.byteswap()
    return values


def read_f32(path):
    """A file of little-endian float32."""
    with open(path, 'rb') as f:
        return to_f32(f.read())


def difference(values, reference):
    """(largest absolute difference, normalised mean square error); NaN counts as infinite."""
    if len(values) != len(reference):
        raise Failed(f'{len(values)} values, expected {len(reference)}')
    mean = math.fsum(reference) / len(reference)
    worst, square, spread = 0.0, 0.0, 0.0
    for x, r in zip(values, reference):
        d = x - r
        if not math.isfinite(d):
            return math.inf, math.inf
        worst = max(worst, abs(d))
        square += d * d
        spread += (r - mean) ** 2
    return worst, square / spread


def within(diff, tolerance):
    """Whether both measures hold."""
    return diff[0] <= tolerance['max_abs'] and diff[1] <= tolerance['nmse']


def describe(diff, tolerance):
    """Both measures beside their limits."""
    return (f'max_abs {diff[0]:.2e} (limit {tolerance["max_abs"]:.0e}), '
            f'nmse {diff[1]:.2e} (limit {tolerance["nmse"]:.0e})')


def same_greedy(ids, expected, margins, error):
    """Ids must be equal up to the first step whose margin is so small that errors of this size may
    turn it: the best logit too low by `error` and the second too high by as much."""
    if ids is None:
        raise Failed('the JSON line has no "greedy"')
    if len(ids) != len(expected):
        raise Failed(f'{len(ids)} ids, expected {len(expected)}')
    for step, (got, want) in enumerate(zip(ids, expected)):
        if margins[step] <= 2 * error:
            return f'{step} of {len(expected)} steps, then a margin of {margins[step]:.1e} against an error of {error:.1e}'
        if got != want:
            raise Failed(f'step {step}: id {got}, expected {want} (margin {margins[step]:.3g}, error {error:.1e})')
    return f'{len(expected)} steps'


def same_bits(result, reference):
    """All outputs and the greedy ids of two runs must be the same to the bit."""
    for name, raw in reference.raw.items():
        if len(result.raw[name]) != len(raw):
            raise Failed(f'{len(result.raw[name])} bytes of {name} against {len(raw)}')
        if result.raw[name] != raw:
            pairs = zip(result.values(name), reference.values(name))
            first, (got, want) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1] or pair[0] != pair[0])
            raise Failed(f'the {name} differ, first at value {first}: {got!r} against {want!r}')
    if result.greedy != reference.greedy:
        raise Failed(f'greedy ids differ: {result.greedy} against {reference.greedy}')
