#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pipeline_ratio.py [options]: tokens/s of a pipeline of processes beside those of one process.

Makes a model of random weights in a real shape, then runs, in turns, `penstock bench
model` (one process) and `penstock run` (a gateway and N stages), each with the same
number of compute threads, and prints medians and their ratio. Needs a built tree.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..'))


def output(*command):
    """What a command printed on stdout; its failure ends the bench with its words."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f'{" ".join(map(str, command))}: exit status {done.returncode}\n{done.stderr}')
    return done.stdout


def one_process(penstock, model, o):
    """Generation speed of one process."""
    result = json.loads(output(penstock, 'bench', 'model', model, '--prompt', o.prompt, '--gen', o.tokens,
                               '--threads', o.threads, '--reps', 1, '--json'))
    return result['gen_tokens_per_s']


def pipeline(penstock, topology, model, o):
    """Generation speed of the pipeline, the network's share of a token's time, and its parts in ms."""
    ids = ','.join(str(i + 1) for i in range(o.prompt))
    result = json.loads(output(penstock, 'run', '--topology', topology, '--model', model, '--driver', o.driver,
                               '--prompt-ids', ids, '--tokens', o.tokens + 1, '--temperature', 0, '--json'))
    timing = result['results'][0]['timing']
    parts = {key: sum(hop[f'{key}_ns']['p50'] for hop in timing['hops']) / 1e6
             for key in ('compute', 'queue', 'wire', 'host')}
    return timing['tokens_per_s'], timing['network_share'], parts


def write_topology(folder, o):
    """N stages on one node with the threads asked for."""
    path = os.path.join(folder, 'topology.yaml')
    with open(path, 'w', encoding='utf-8') as f:
        f.write('version: 1\nname: ratio\nmodel: model.gguf\nnodes:\n  - name: here\nstages:\n')
        for i in range(o.stages):
            f.write(f'  - {{name: s{i}, node: here, threads: {o.threads}}}\n')
        f.write('gateway: {name: gateway, node: here}\n')
    return path


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    p.add_argument('--build', default=os.path.join(ROOT, 'build'))
    p.add_argument('--preset', default='gpt2-124m')
    p.add_argument('--dtype', default='f16')
    p.add_argument('--stages', type=int, default=3)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--driver', default='memif')
    p.add_argument('--prompt', type=int, default=16)
    p.add_argument('--tokens', type=int, default=64)
    p.add_argument('--rounds', type=int, default=5)
    o = p.parse_args()
    penstock = os.path.join(o.build, 'cli', 'penstock')
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, 'model.gguf')
        output(os.path.join(o.build, 'perf', 'penstock-make-gguf'), '--preset', o.preset, '--dtype', o.dtype, model)
        topology = write_topology(folder, o)
        one, many, shares, parts = [], [], [], []
        for _ in range(o.rounds):
            one.append(one_process(penstock, model, o))
            speed, share, split = pipeline(penstock, topology, model, o)
            many.append(speed)
            shares.append(share)
            parts.append(split)
    ratios = [m / s for m, s in zip(many, one)]
    print(json.dumps({
        'model': f'{o.preset} {o.dtype}', 'stages': o.stages, 'threads': o.threads, 'driver': o.driver,
        'one_process_tokens_per_s': [round(x, 2) for x in one], 'pipeline_tokens_per_s': [round(x, 2) for x in many],
        'ratio_of_medians': round(statistics.median(many) / statistics.median(one), 3),
        'ratios': [round(x, 3) for x in ratios], 'network_share': [round(x, 4) for x in shares],
        'parts_ms_p50': {key: [round(x[key], 3) for x in parts] for key in parts[0]}}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
