#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""leftovers.py record|check|remove FILE: what a run must not leave on the host.

record writes to FILE what is there now; check prints what has been added since and
exits 1 if anything has; remove takes it away. Looked at: network namespaces,
interfaces, mounts, run directories, EAL's files, hugepage files, and processes whose
program lies in this tree's build folders. Others may use the machine meanwhile: what
bears a process's number in its name (namespaces and run directories do) counts only if
a test started that process. The tests use the functions directly.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..'))
RUN_DIRS = ('/run/penstock', '/run/dpdk', '/tmp/penstock-65534', '/tmp/dpdk')
HUGE_DIRS = ('/dev/hugepages',)
STARTED = set()


def listing(path):
    """All paths below a folder, or none where it is missing or not ours to read."""
    found = []
    for base, folders, files in os.walk(path):
        found += [os.path.join(base, name) for name in folders + files]
    return found


def note(pid):
    """Remembers a process that a test started: what bears its number is ours."""
    if str(pid) in STARTED:
        return
    STARTED.add(str(pid))
    if os.environ.get('PENSTOCK_TEST_PIDS'):
        with open(os.environ['PENSTOCK_TEST_PIDS'], 'a', encoding='ascii') as f:
            f.write(f'{pid}\n')


def started():
    """All processes noted by this program and, under scripts/test, by those before it."""
    path = os.environ.get('PENSTOCK_TEST_PIDS')
    if path and os.path.exists(path):
        with open(path, encoding='ascii') as f:
            return STARTED | set(f.read().split())
    return STARTED


def may_be_ours(name, ours):
    """Names that end in "-PID" or "-PID-N" are ours if we started that process. In CI, where
    nobody else uses the machine, everything is."""
    numbers = re.findall(r'-(\d+)(?=-|/|$)', name)
    return os.environ.get('CI') == 'true' or not numbers or any(number in ours for number in numbers)


def processes():
    """Running programs of this tree: {pid: command line}."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            exe = os.readlink(f'/proc/{pid}/exe')
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                cmdline = f.read().replace(b'\0', b' ').decode(errors='replace').strip()
            with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
                state = f.read().rsplit(')', 1)[1].split()[0]
        except OSError:
            continue
        if exe.startswith(os.path.join(ROOT, 'build')) and state != 'Z':
            found[pid] = cmdline
    return found


def state():
    """All that is looked at, as {kind: [name]}."""
    with open('/proc/self/mounts', encoding='utf-8', errors='replace') as f:
        # /run/netns itself is mounted by any `ip netns add`, the tests' own too; that the launcher takes
        # it back is test_launch's to check.
        mounts = [m for m in (line.split()[1] for line in f) if m != '/run/netns']
    run = [path for top in RUN_DIRS for path in listing(top)]
    return {
        'network namespace': sorted(os.listdir('/run/netns')) if os.path.isdir('/run/netns') else [],
        'interface': sorted(os.listdir('/sys/class/net')),
        'mount': sorted(mounts),
        'file': sorted(run),
        'hugepage file': sorted(path for top in HUGE_DIRS for path in listing(top)),
        'process': sorted(f'{pid} {cmdline}' for pid, cmdline in processes().items()),
    }


def added(before, after=None):
    """What is there now and was not before, as [(kind, name)]."""
    after = after or state()
    ours = started()
    return [(kind, name) for kind, names in after.items() for name in names
            if name not in before.get(kind, []) and may_be_ours(name, ours)]


def settled(before, seconds=3.0):
    """added(), after giving processes that are just ending some time to end."""
    deadline = time.monotonic() + seconds
    while True:
        left = added(before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def end_process(pid):
    """SIGTERM, which lets it clean up, and SIGKILL if that does not help."""
    for sig, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 2.0)):
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + seconds
        while os.path.exists(f'/proc/{pid}') and time.monotonic() < deadline:
            time.sleep(0.05)


def remove(before):
    """Takes away what has been added; returns what could not be."""
    for kind, name in added(before):
        if kind == 'process':
            end_process(int(name.split()[0]))
    # What a killed launcher wrote down, the program itself gives back best.
    program = os.environ.get('PENSTOCK') or os.path.join(ROOT, 'build', 'cli', 'penstock')
    if os.access(program, os.X_OK):
        subprocess.run([program, 'down', '--stale'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       timeout=60, check=False)
    for kind, name in sorted(added(before), key=lambda item: -len(item[1])):
        if kind not in ('network namespace', 'file', 'hugepage file'):
            continue
        print(f'removing {kind} {name}')
        if kind == 'network namespace':
            subprocess.run(['ip', 'netns', 'delete', name], check=False)
        else:
            try:
                (os.rmdir if os.path.isdir(name) and not os.path.islink(name) else os.unlink)(name)
            except OSError as error:
                print(f'{name}: {error.strerror}')
    return added(before)


def main(argv):
    if len(argv) != 2 or argv[0] not in ('record', 'check', 'remove'):
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    if argv[0] == 'record':
        with open(argv[1], 'w', encoding='utf-8') as f:
            json.dump(state(), f)
        return 0
    with open(argv[1], encoding='utf-8') as f:
        before = json.load(f)
    left = settled(before) if argv[0] == 'check' else remove(before)
    for kind, name in left:
        print(f'left behind: {kind} {name}')
    return 1 if left else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
