#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""hosts.py: runs on hosts as they are: twice, two at once, without hugepages, without root."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

import runs
from runs import h

TOKENS = 24
OPTIONS = ('--prompt', runs.PROMPT, '--tokens', TOKENS, '--temperature', 0)
NOBODY = 65534


def expected_text():
    """What each of these runs must write."""
    return runs.greedy_text(runs.shipped_model(), runs.PROMPT, TOKENS)


def check_text(out, expected):
    """The run's text."""
    if out != expected + '\n':
        raise h.Failed(f'got      {out!r}\nexpected {expected!r}')


def check_twice(expected):
    """A second run starts like the first."""
    with runs.nothing_left():
        for _ in range(2):
            check_text(runs.run(*OPTIONS)[0], expected)


def check_two_at_once(expected, driver):
    """Two runs do not get in each other's way."""
    if driver == 'af_xdp':
        runs.need_af_xdp()
    with runs.nothing_left():
        both = [runs.Run('run', '--topology', runs.DEFAULT_TOPOLOGY, '--driver', driver, *OPTIONS) for _ in range(2)]
        results = [running.wait(90.0) for running in both]
        for status, out, err in results:
            if status != 0:
                raise h.Failed(f'exit status {status}: {err[-2000:]}')
            check_text(out, expected)


HUGEPAGES = '/sys/kernel/mm/hugepages/hugepages-2048kB/'


@contextlib.contextmanager
def without_hugepages():
    """A host without free hugepages. They are everybody's, so only CI may take them away."""
    with open(HUGEPAGES + 'nr_hugepages', encoding='ascii') as f:
        total = int(f.read())
    if total == 0:
        yield
        return
    if os.geteuid() != 0 or os.environ.get('CI') != 'true':
        raise h.Skipped(f'{total} hugepages are reserved here, and only CI (CI=true, root) may take them away')
    with open(HUGEPAGES + 'nr_hugepages', 'w', encoding='ascii') as f:
        f.write('0')
    try:
        yield
    finally:
        with open(HUGEPAGES + 'nr_hugepages', 'w', encoding='ascii') as f:
            f.write(str(total))


def check_no_hugepages(expected):
    """An ordinary user on a host without hugepages: it says what it lacks, and works over memif."""
    with without_hugepages():
        _, err = check_ordinary_user(expected)
    for word in ('without hugepages', 'nr_hugepages'):
        if word not in err:
            raise h.Failed(f'stderr does not say {word!r}: {err[-1000:]}')


@contextlib.contextmanager
def ordinary_user():
    """(prefix that becomes an ordinary user, options of Run): the program and its data in a
    folder of that user's, as the tree may lie where only root may look."""
    if os.geteuid() != 0:
        raise h.Skipped('this whole test runs as an ordinary user')
    if not shutil.which('setpriv'):
        raise h.Skipped('setpriv is not installed')
    with tempfile.TemporaryDirectory() as home:
        for folder in ('topology', 'models'):
            shutil.copytree(os.path.join(h.ROOT, folder), os.path.join(home, folder))
        os.mkdir(os.path.join(home, 'bin'))
        program = shutil.copy(h.PENSTOCK, os.path.join(home, 'bin'))
        subprocess.run(['chown', '-R', f'{NOBODY}:{NOBODY}', home], check=True)
        yield {'prefix': ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', '--no-new-privs'],
               'env': {'HOME': home, 'XDG_RUNTIME_DIR': home}, 'program': program,
               'topology': os.path.join(home, 'topology', os.path.basename(runs.DEFAULT_TOPOLOGY))}


def check_ordinary_user(expected):
    """As an ordinary user it works over memif. Returns what it said on stderr."""
    with ordinary_user() as user, runs.nothing_left():
        out, err = runs.run(*OPTIONS, **user)
        check_text(out, expected)
    return ('stderr', err)


def check_ordinary_user_af_xdp():
    """As an ordinary user AF_XDP is refused with what it lacks."""
    with ordinary_user() as user, runs.nothing_left():
        topology = user.pop('topology')
        status, _, err = runs.Run('run', '--topology', topology, '--driver', 'af_xdp', *OPTIONS, **user).wait(30.0)
    if status != 1 or 'root' not in err:
        raise h.Failed(f'exit status {status}, expected 1 and a word of root: {err[-1000:]}')


def check_bad_model():
    """A file that is no model, or is cut short, is an error before anything is started."""
    with tempfile.TemporaryDirectory() as folder:
        with open(runs.shipped_model(), 'rb') as f:
            raw = f.read()
        for what, content in {'cut': raw[:len(raw) // 2], 'text': b'hello', 'empty': b''}.items():
            path = os.path.join(folder, what)
            with open(path, 'wb') as f:
                f.write(content)
            with runs.nothing_left():
                status, out, err = runs.Run('run', '--topology', runs.DEFAULT_TOPOLOGY, '--model', path, *OPTIONS).wait(20.0)
            if status != 1 or out or path not in err:
                raise h.Failed(f'{what}: exit status {status}, expected 1 and an error that names the file: {err[-1000:]}')


def main():
    runs.end_on_signal()
    tap = h.Tap()
    expected = tap.check('text of one process', expected_text)
    if expected:
        tap.check('a second run', check_twice, expected)
        tap.check('two runs at once over memif', check_two_at_once, expected, 'memif')
        tap.check('two runs at once over af_xdp', check_two_at_once, expected, 'af_xdp')
        tap.check('as an ordinary user', check_ordinary_user, expected)
        tap.check('as an ordinary user without hugepages', check_no_hugepages, expected)
    tap.check('AF_XDP as an ordinary user', check_ordinary_user_af_xdp)
    tap.check('a model that is none', check_bad_model)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
