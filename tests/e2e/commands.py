#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""commands.py: what the smaller commands print, and that wrong usage is told."""
import json
import os
import re
import sys
import tempfile

import runs
from runs import h

COMMANDS = ('run', 'up', 'status', 'down', 'stage', 'gateway', 'inspect', 'eval', 'tokenize', 'bench', 'host')
RTT = ('rtt_ns_min', 'rtt_ns_p50', 'rtt_ns_p99', 'rtt_ns_p999', 'rtt_ns_max')


def ok(*args, stdin=b'', timeout=60):
    """stdout of a command that must succeed."""
    status, out, err = h.penstock(*args, stdin=stdin, timeout=timeout)
    if status != 0:
        raise h.Failed(f'{" ".join(map(str, args))}: exit status {status}: {err[-2000:]}')
    return out.decode()


def one_json(text):
    """The one JSON object that stdout holds."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise h.Failed(f'{len(lines)} lines, expected one JSON object: {text[:500]}')
    try:
        return json.loads(lines[0])
    except ValueError as error:
        raise h.Failed(f'{error}: {lines[0][:500]}') from None


def check_help(command):
    """--help is on stdout, begins with the usage, and names the options with their meaning."""
    text = ok(command, '--help')
    if not text.startswith(f'usage: penstock {command}'):
        raise h.Failed(f'begins with {text[:80]!r}')
    if len(text.splitlines()) < 3:
        raise h.Failed(f'only {text!r}')


def check_listed():
    """`penstock --help` lists every command."""
    listed = re.findall(r'^  (?!penstock )([a-z]+) +\S', ok('--help'), re.M)
    if sorted(listed) != sorted(COMMANDS):
        raise h.Failed(f'listed {sorted(listed)}, expected {sorted(COMMANDS)}')


def check_usage(*args):
    """Wrong usage: exit status 2 and a word on stderr, nothing on stdout."""
    status, out, err = h.penstock(*args, timeout=20)
    if status != 2 or not err.strip() or out:
        raise h.Failed(f'{" ".join(args)}: exit status {status}, expected 2; stdout {out[:200]!r}, stderr {err[-500:]!r}')


def check_inspect(path):
    """Architecture, shape and the weight of each block."""
    text = ok('inspect', path)
    family = os.path.basename(path).split('-')[1]  # demo-FAMILY-TYPE.gguf
    for word in (family, 'F16'):
        if word not in text:
            raise h.Failed(f'{word!r} is not in {text[:2000]!r}')


def check_bench_link(driver, size):
    """Percentiles in order, and what was asked for."""
    if driver == 'af_xdp':
        runs.need_af_xdp()
    with runs.nothing_left():
        got = one_json(ok('bench', 'link', '--driver', driver, '--size', size, '--count', 200, '--json'))
    if (got.get('driver'), got.get('size'), got.get('count')) != (driver, size, 200) or not got.get('mode'):
        raise h.Failed(f'driver, mode, size or count: {got}')
    values = [got.get(key) for key in RTT]
    if not all(isinstance(value, (int, float)) and value > 0 for value in values) or values != sorted(values):
        raise h.Failed(f'{dict(zip(RTT, values))}')
    return f'p50 {got["rtt_ns_p50"]} ns'


def check_bench_one_way(driver):
    """One way there is a rate too."""
    with runs.nothing_left():
        got = one_json(ok('bench', 'link', '--driver', driver, '--size', 8192, '--count', 500, '--one-way', '--json'))
    if not got.get('bytes_per_s', 0) > 0:
        raise h.Failed(f'{got}')


def check_bench_model(path):
    """Prompt and generation speed, each with its spread."""
    got = one_json(ok('bench', 'model', path, '--prompt', 32, '--gen', 16, '--threads', 1, '--json'))
    for key in ('prompt_tokens_per_s', 'gen_tokens_per_s'):
        if not got.get(key, 0) > 0:
            raise h.Failed(f'{key}: {got}')
    if not any('spread' in key or '_min' in key or 'mad' in key for key in got):
        raise h.Failed(f'no spread: {got}')


def check_host():
    """`host check` says what there is; 0 or 1, as something lacks or not."""
    status, out, err = h.penstock('host', 'check')
    if status not in (0, 1) or 'huge' not in (out.decode() + err).lower():
        raise h.Failed(f'exit status {status}: {out!r} {err!r}')


def check_stage_name():
    """A stage that is not in the file, with EAL arguments in front: the error names those that are."""
    status, _, err = h.penstock('stage', '--no-huge', '-m', '64', '--', '--topology', runs.DEFAULT_TOPOLOGY,
                                '--name', 'nope', timeout=20)
    if status != 1 or 's0' not in err or 'nope' not in err:
        raise h.Failed(f'exit status {status}, expected 1 and the known names: {err[-1000:]}')


def check_run_json():
    """`run --json`: times of the tokens and of each hop."""
    with runs.nothing_left():
        status, out, err = runs.Run('run', '--topology', runs.DEFAULT_TOPOLOGY, '--prompt', runs.PROMPT, '--tokens', 24,
                                    '--json').wait()
    if status != 0:
        raise h.Failed(f'exit status {status}: {err[-2000:]}')
    objects = []
    for line in (out + '\n' + err).splitlines():
        if line.startswith('{'):
            objects.append(json.loads(line))
    text = json.dumps(objects)
    for key in ('ttft', 'tokens_per_s', 'compute', 'queue', 'wire', 'host', 'p50', 'p99', 'share'):
        if key not in text:
            raise h.Failed(f'no {key} in {text[:2000]}')


def check_twice_quick():
    """A second start with nothing to build or install is quick (scripts/run's promise is 10 s)."""
    script = os.path.join(h.ROOT, 'scripts', 'run')
    with runs.nothing_left(), tempfile.TemporaryDirectory() as elsewhere:
        began = runs.time.monotonic()
        done = h.subprocess.run([script, '--tokens', '8'], cwd=elsewhere, stdin=h.subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=60, check=False)
        seconds = runs.time.monotonic() - began
    if done.returncode != 0 or not done.stdout.strip():
        raise h.Failed(f'exit status {done.returncode}: {done.stderr[-2000:]}')
    if seconds > 10.0:
        raise h.Failed(f'took {seconds:.1f} s')
    return f'{seconds:.1f} s'


def main():
    runs.end_on_signal()
    tap = h.Tap()
    tap.check('penstock --help lists all commands', check_listed)
    for command in COMMANDS:
        tap.check(f'{command} --help', check_help, command)
        tap.check(f'{command} with an unknown option', check_usage, command, '--no-such-option')
    tap.check('an unknown command', check_usage, 'flow')
    tap.check('eval without tokens', check_usage, 'eval', 'model.gguf')
    for path in sorted(runs.glob.glob(os.path.join(h.ROOT, 'models', '*.gguf'))):
        tap.check(f'inspect {os.path.basename(path)}', check_inspect, path)
    for driver in ('loopback', 'memif', 'af_xdp'):
        for size in (64, 8192, 65536):
            tap.check(f'bench link {driver} {size}', check_bench_link, driver, size)
    tap.check('bench link memif one way', check_bench_one_way, 'memif')
    tap.check('bench model', check_bench_model, runs.shipped_model())
    tap.check('host check', check_host)
    tap.check('stage with EAL arguments', check_stage_name)
    tap.check('run --json', check_run_json)
    tap.check('scripts/run again', check_twice_quick)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
