#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""idle_policies.py [options]: what the idle policies cost when processes share cores.

Brings a gateway and three stages up on the demo model, once with `idle: adaptive` and
once with `idle: spin`, in turns; measures each process's CPU share while nothing is
asked of it, and the time per token while text is written. Needs a built tree.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..'))
TICKS = os.sysconf('SC_CLK_TCK')


def penstock(o, *command):
    """stdout of a penstock command; its failure ends the bench with its words."""
    done = subprocess.run([os.path.join(o.build, 'cli', 'penstock'), *map(str, command)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f'penstock {" ".join(map(str, command))}: exit status {done.returncode}\n{done.stderr}')
    return done.stdout


def cpu_seconds(pid):
    """User and system time of a process so far."""
    with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def write_topology(folder, o, idle):
    """Three stages on one node, all processes with one policy."""
    path = os.path.join(folder, f'{idle}.yaml')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(f'version: 1\nname: idle-{idle}-{os.getpid()}\nmodel: {ROOT}/models/demo-llama-f16.gguf\n'
                'nodes:\n  - name: here\nstages:\n')
        for i in range(3):
            f.write(f'  - {{name: s{i}, node: here, threads: {o.threads}, idle: {idle}}}\n')
        f.write(f'gateway: {{name: gateway, node: here, idle: {idle}}}\n')
    return path


def measure(o, folder, idle):
    """(idle CPU share of each process, time per token in us, wire time of each hop in us)."""
    topology = write_topology(folder, o, idle)
    name = f'idle-{idle}-{os.getpid()}'
    penstock(o, 'up', topology)
    try:
        status = json.loads(penstock(o, 'status', name, '--json'))
        pids = {p['name']: p['pid'] for p in next(iter(status.values()))}
        time.sleep(1.0)
        before = {n: cpu_seconds(p) for n, p in pids.items()}
        time.sleep(o.seconds)
        shares = {n: (cpu_seconds(p) - before[n]) / o.seconds for n, p in pids.items()}
        result = json.loads(penstock(o, 'run', '--attach', name, '--tokens', o.tokens, '--temperature', 0, '--json'))
        timing = result['results'][0]['timing']
        wires = [h['wire_ns']['p50'] / 1e3 for h in timing['hops']]
        return shares, timing['token_ns']['p50'] / 1e3, wires
    finally:
        penstock(o, 'down', name)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    p.add_argument('--build', default=os.path.join(ROOT, 'build'))
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--tokens', type=int, default=200)
    p.add_argument('--seconds', type=float, default=3.0)
    p.add_argument('--rounds', type=int, default=3)
    o = p.parse_args()
    found = {'adaptive': [], 'spin': []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(o.rounds):
            for idle, results in found.items():
                results.append(measure(o, folder, idle))
    for idle, results in found.items():
        share = statistics.median(max(r[0].values()) for r in results)
        print(json.dumps({
            'idle': idle, 'idle_cpu_share_of_the_busiest': round(share, 4),
            'token_us_p50': [round(r[1], 1) for r in results],
            'wire_us_p50_by_hop': [[round(w, 1) for w in r[2]] for r in results]}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
