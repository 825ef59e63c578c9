#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""deployments.py: up, status, run --attach and down, over each topology that ships.

What a deployment writes equals one process's text; a second `up` of the same name is
refused; a stage that dies shows in `status` and at the client; `down` gives all back.
"""
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time

import runs
from runs import h

TOKENS = 24
FILES = {'three-stages-memif.yaml': (3, False), 'three-namespaces-af_xdp.yaml': (3, True),
         'two-nodes-two-stages.yaml': (4, True)}


def renamed(folder, name):
    """A copy of a shipped topology under a name of our own, so that it is in nobody's way."""
    with open(os.path.join(runs.TOPOLOGIES, name), encoding='utf-8') as f:
        text = f.read()
    deployment = f'e2e-{os.getpid()}'
    path = os.path.join(folder, name)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(re.sub(r'^name:.*$', f'name: {deployment}', text, flags=re.M))
    return path, deployment


def call(*args, expect=0, timeout=60):
    """stdout and stderr of a command whose exit status must be `expect`."""
    status, out, err = h.penstock(*args, timeout=timeout)
    if status != expect:
        raise h.Failed(f'penstock {" ".join(map(str, args))}: exit status {status}, expected {expect}: {err[-2000:]}')
    return out.decode(), err


@contextlib.contextmanager
def deployment(name, *options):
    """A shipped topology, up; down again at the end, with nothing left."""
    stages, needs_root = FILES[name]
    if needs_root:
        runs.need_af_xdp()
    with tempfile.TemporaryDirectory() as folder, runs.nothing_left():
        path, deployed = renamed(folder, name)
        call('up', '--model', runs.shipped_model(), *options, path)
        try:
            yield path, deployed, stages
        finally:
            h.penstock('down', deployed, timeout=30)


def status_of(deployed):
    """The deployment's processes, as `status --json` has them."""
    return json.loads(call('status', '--json', deployed)[0])[deployed]


def check_life(name, expected, *options):
    """All steps, each with what it must say."""
    with deployment(name, *options) as (path, deployed, stages):
        processes = status_of(deployed)
        if len(processes) != stages + 1 or not all(process['ready'] for process in processes):
            raise h.Failed(f'{len(processes)} processes, expected {stages + 1}, all ready: {processes}')
        # In the pipeline's order, the gateway last.
        blocks = [(process['block_first'], process['block_last']) for process in processes[:stages]]
        if blocks[0][0] != 0 or any(a[1] + 1 != b[0] for a, b in zip(blocks, blocks[1:])):
            raise h.Failed(f'blocks {blocks}')
        for _ in range(2):
            out, _ = call('run', '--attach', deployed, '--prompt', runs.PROMPT, '--tokens', TOKENS, '--temperature', 0)
            if out != expected + '\n':
                raise h.Failed(f'got      {out!r}\nexpected {expected!r}')
        _, err = call('up', '--model', runs.shipped_model(), path, expect=1)
        if deployed not in err:
            raise h.Failed(f'a second up: {err[-500:]}')
        call('down', deployed)
        _, err = call('down', deployed, expect=1)
        if deployed not in err:
            raise h.Failed(f'a second down: {err[-500:]}')
    return f'{stages} stages'


def check_no_hugepages():
    """Told to do without hugepages, every process does, and says so."""
    with deployment('three-stages-memif.yaml', '--no-hugepages') as (_, deployed, _stages):
        for process in status_of(deployed):
            if 'no-huge' not in process['memory']:
                raise h.Failed(f'{process["name"]}: {process["memory"]}')


def check_dead_stage():
    """A stage that is killed shows in status and at the next client; down still works."""
    with deployment('three-stages-memif.yaml') as (_, deployed, _stages):
        victim = next(process for process in status_of(deployed) if process['name'] == 's1')
        os.kill(victim['pid'], signal.SIGKILL)
        began = time.monotonic()
        _, err = call('run', '--attach', deployed, '--prompt', runs.PROMPT, '--tokens', TOKENS, expect=1, timeout=20)
        seconds = time.monotonic() - began
        if seconds > 2.5 or 's1' not in err and 's2' not in err and 's0' not in err:
            raise h.Failed(f'after {seconds:.1f} s: {err[-1000:]}')
        status, out, err = h.penstock('status', deployed, timeout=20)
        if status != 1 or not re.search(r'^ +s1 +NOT READY \(has ended; its log: \S+/s1\.log\)$', out.decode(), re.M):
            raise h.Failed(f'status {status} does not show it: {out.decode()[-1500:]} {err[-500:]}')
        call('down', deployed)
    return f'client told after {seconds * 1000:.0f} ms'


def check_eal():
    """What follows -- reaches every process and its EAL, which refuses what it does not know. Less memory than
    the launcher counts with: it may have to make do with hugepages for just that."""
    with tempfile.TemporaryDirectory() as folder, runs.nothing_left():
        path, deployed = renamed(folder, 'three-stages-memif.yaml')
        _, err = call('up', '--model', runs.shipped_model(), path, '--', '--no-such-eal-argument', expect=1)
        if 'EAL' not in err or 'argument' not in err:
            raise h.Failed(f'{err[-1000:]}')
        call('up', '--model', runs.shipped_model(), path, '--', '-m', '60')
        try:
            lines = [runs.command_line(process['pid']) for process in status_of(deployed)]
        finally:
            call('down', deployed)
        if not lines or not all('60' in words[:words.index('--')] for words in lines):
            raise h.Failed(f'{lines}')


def check_by_hand(expected):
    """Processes that nobody launched together, each with EAL arguments: status and run --attach find them."""
    with tempfile.TemporaryDirectory() as folder, runs.nothing_left():
        path = os.path.join(folder, 'by-hand.yaml')
        deployed = f'e2e-hand-{os.getpid()}'
        with open(path, 'w', encoding='utf-8') as f:
            f.write(f'version: 1\nname: {deployed}\nmodel: {runs.shipped_model()}\nstages: [{{name: s1}}, {{name: s2}}]\n')
        started = [runs.Run(*words, '-l', '0', '--no-huge', '-m', '80', '--', '--topology', path, *own)
                   for words, own in ((['stage'], ['--name', 's1']), (['stage'], ['--name', 's2']), (['gateway'], []))]
        try:
            deadline = time.monotonic() + 20
            while h.penstock('status', deployed)[0] != 0:
                if time.monotonic() > deadline:
                    raise h.Failed(f'not ready: {h.penstock("status", deployed)}')
                time.sleep(0.05)
            for process in status_of(deployed):
                if 'no-huge mem=80MB' not in process['memory']:
                    raise h.Failed(f'{process["name"]}: {process["memory"]}')
            out, _ = call('run', '--attach', deployed, '--prompt', runs.PROMPT, '--tokens', TOKENS, '--temperature', 0)
            if out != expected + '\n':
                raise h.Failed(f'got      {out!r}\nexpected {expected!r}')
        finally:
            for one in started:
                one.process.terminate()
            ends = [one.wait(20)[0] for one in started]
        if ends != [0, 0, 0]:
            raise h.Failed(f'exit statuses {ends}')


def main():
    runs.end_on_signal()
    tap = h.Tap()
    expected = tap.check('text of one process', lambda: runs.greedy_text(runs.shipped_model(), runs.PROMPT, TOKENS))
    for name in FILES:
        tap.check(f'{name} up, status, run, down', check_life, name, expected)
    tap.check('EAL arguments go to every process', check_eal)
    tap.check('up without hugepages', check_no_hugepages)
    tap.check('a dead stage', check_dead_stage)
    tap.check('started by hand', check_by_hand, expected)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
