#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""lint.py CHECK...|all: the rules of the house that a tool can check, as TAP.

Each check is one test case; what breaks it is listed below it as "# file:line: why".
The tree is $PENSTOCK_SOURCE_ROOT or the one this file lies in.
"""
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.environ.get('PENSTOCK_SOURCE_ROOT') or os.path.realpath(
    os.path.join(os.path.dirname(__file__), '..', '..'))

# Which room may include which. What is not named here (cli, perf, tests) joins all of them.
ROOMS = {
    'base': {'base'},
    'dataplane': {'base', 'dataplane'},
    'model': {'base', 'model'},
    'accel': {'base', 'model', 'accel'},
    'nic': {'base', 'dataplane', 'nic'},
    'topology': {'base', 'topology'},
    'stage': {'base', 'dataplane', 'model', 'accel', 'stage'},
    'gateway': {'base', 'dataplane', 'model', 'gateway'},
}
JOINERS = {'cli', 'perf', 'tests'}
# Third-party headers and the rooms that may know them.
FOREIGN = [
    (re.compile(r'^(rte_|ethdev_driver|bus_)'), {'nic', 'perf'}, 'DPDK'),
    (re.compile(r'^(bpf/|xdp/|linux/bpf|linux/if_xdp)'), {'nic', 'perf'}, 'libbpf, libxdp'),
    (re.compile(r'^yaml\.h'), {'topology'}, 'libyaml'),
    (re.compile(r'^pcre2'), {'model'}, 'PCRE2'),
    (re.compile(r'^utf8proc'), {'model'}, 'utf8proc'),
    (re.compile(r'^jansson'), {'cli', 'gateway', 'perf', 'tests'}, 'jansson'),
    (re.compile(r'^cmocka'), {'tests'}, 'cmocka'),
]
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]')
HEADER_LINES, SOURCE_LINES, FUNCTION_LINES = 300, 800, 70
SPDX = 'SPDX-License-Identifier: BSD-3-Clause'
# Folders that are not the project's source: build output, and data made elsewhere.
SKIPPED_FOLDERS = re.compile(r'^(\.git|\.cache|__pycache__|build.*|cases)$')


def sources(*suffixes):
    """Files of the tree with one of the suffixes, as paths from the root."""
    found = []
    for base, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not SKIPPED_FOLDERS.match(name)]
        found += [os.path.relpath(os.path.join(base, name), ROOT) for name in files if name.endswith(suffixes)]
    return sorted(found)


def read(path):
    """A file's lines; bytes that are no UTF-8 do not matter to any check."""
    with open(os.path.join(ROOT, path), encoding='utf-8', errors='replace') as f:
        return f.read().splitlines()


def scripts():
    """Shell and Python files, by suffix or by their first line."""
    found = {'sh': sources('.sh'), 'python': sources('.py')}
    for path in sources(''):
        full = os.path.join(ROOT, path)
        if '.' in os.path.basename(path) or not os.access(full, os.X_OK):
            continue
        with open(full, 'rb') as f:
            first = f.readline()
        if re.match(rb'#!.*\b(ba)?sh\b', first):
            found['sh'].append(path)
        elif re.match(rb'#!.*\bpython', first):
            found['python'].append(path)
    return found


def check_rooms():
    """Rooms include only what their table allows."""
    for path in sources('.c', '.h'):
        room = path.split(os.sep)[0]
        # A room's unit tests may know what the room knows.
        tested = re.match(r'tests/unit/(\w+)/', path)
        homes = {room, tested.group(1)} if tested else {room}
        if room not in ROOMS and room not in JOINERS:
            yield path, 1, f"'{room}' is no room: {', '.join(sorted(ROOMS))}, or {', '.join(sorted(JOINERS))}"
            continue
        for number, line in enumerate(read(path), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            quote, name = m.groups()
            if quote == '"':
                other = name.split('/')[0]
                if '/' not in name or other not in ROOMS.keys() | JOINERS:
                    yield path, number, f'"{name}": project headers are included by their path from the root'
                elif other not in ROOMS.get(room, ROOMS.keys() | JOINERS):
                    yield path, number, f'{room} may not include {other}: only {", ".join(sorted(ROOMS[room]))}'
                continue
            for pattern, rooms, what in FOREIGN:
                if pattern.match(name) and not homes & rooms:
                    yield path, number, f'<{name}>: headers of {what} belong in {", ".join(sorted(rooms))}'


def check_spdx():
    """Each source file names its licence in its first lines."""
    kinds = scripts()
    for path in sources('.c', '.h') + kinds['sh'] + kinds['python']:
        lines = read(path)
        place = lines[:1] if path.endswith(('.c', '.h')) else lines[:3]
        if not any(SPDX in line for line in place):
            yield path, 1, f'no "{SPDX}" at the top'


def check_guards():
    """Each header has an include guard named after its path (tests: after its file)."""
    for path in sources('.h'):
        lines = read(path)
        name = path if not path.startswith('tests' + os.sep) else os.path.join('tests', os.path.basename(path))
        macros = ['PENSTOCK_' + re.sub(r'[^A-Za-z0-9]', '_', choice).upper() for choice in (path, name)]
        if not any(f'#ifndef {macro}' in lines and f'#define {macro}' in lines for macro in macros):
            yield path, 2, f'no include guard {macros[0]}'


def check_files():
    """Headers and sources keep to their length."""
    for path in sources('.c', '.h'):
        limit = HEADER_LINES if path.endswith('.h') else SOURCE_LINES
        count = len(read(path))
        if count > limit:
            yield path, limit, f'{count} lines; at most {limit}'


def check_functions():
    """Functions keep to their length."""
    for path in sources('.c', '.h'):
        start = signature = None
        for number, line in enumerate(read(path), 1):
            # In the kernel's brace style a function's body, and nothing else that follows a
            # parameter list, begins with a brace in the first column.
            if line.startswith('{') and signature:
                start = signature
            elif line.startswith('}'):
                if start and number - start + 1 > FUNCTION_LINES:
                    yield path, start, f'a function of {number - start + 1} lines; at most {FUNCTION_LINES}'
                start = signature = None
            elif start is None:
                if line[:1].isalpha() or line[:1] == '_':
                    signature = number
                elif not line.strip():
                    signature = None


def check_text():
    """No trailing blanks, no missing newline at the end, no CR, no path of the author's machine."""
    # Written in two parts so that this line does not find itself.
    elsewhere = re.compile(r'(?<![\w./~$}])/(?:wo' r'rk|ho' r'me)/\w')
    kinds = scripts()
    texts = sources('.c', '.h', '.md', '.yaml', '.build', '.def', '.1', '.txt') + kinds['sh'] + kinds['python']
    for path in dict.fromkeys(texts):
        with open(os.path.join(ROOT, path), encoding='utf-8', errors='replace', newline='') as f:
            text = f.read()
        if path.endswith('.txt') and not path.startswith(('scripts', 'docs')):
            continue
        if text and not text.endswith('\n'):
            yield path, text.count('\n') + 1, 'no newline at the end'
        for number, line in enumerate(text.split('\n'), 1):
            if line.endswith('\r'):
                yield path, number, 'a carriage return'
            elif line != line.rstrip():
                yield path, number, 'blanks at the end of the line'
            if elsewhere.search(line):
                yield path, number, 'a path of one machine'


def check_python():
    """Python files compile."""
    with tempfile.TemporaryDirectory() as folder:
        for path in scripts()['python']:
            try:
                py_compile.compile(os.path.join(ROOT, path), cfile=os.path.join(folder, 'x.pyc'), doraise=True)
            except py_compile.PyCompileError as error:
                yield path, 1, str(error).replace('\n', ' ')


def check_shell():
    """Shell scripts pass shellcheck."""
    if not shutil.which('shellcheck'):
        raise LookupError('shellcheck is not installed')
    for path in scripts()['sh']:
        done = subprocess.run(['shellcheck', '-x', '-P', 'SCRIPTDIR', '-f', 'gcc', path], cwd=ROOT,
                              capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            name, number, why = line.split(':', 2)
            yield name, int(number), why


def check_format():
    """C files are formatted by .clang-format (mend with scripts/format)."""
    if not shutil.which('clang-format'):
        raise LookupError('clang-format is not installed')
    for path in sources('.c', '.h'):
        done = subprocess.run(['clang-format', '--style=file', path], cwd=ROOT, capture_output=True, check=True)
        lines = read(path)
        wanted = done.stdout.decode('utf-8', 'replace').splitlines()
        if lines != wanted:
            first = next((i for i, (a, b) in enumerate(zip(lines, wanted), 1) if a != b), min(len(lines), len(wanted)))
            yield path, first, 'not as clang-format writes it'


CHECKS = {name[len('check_'):]: function for name, function in sorted(globals().items()) if name.startswith('check_')}


def main(argv):
    names = list(CHECKS) if argv == ['all'] else argv
    if not names or any(name not in CHECKS for name in names):
        print(f'expected all or some of: {" ".join(CHECKS)}', file=sys.stderr)
        return 2
    status = 0
    print(f'1..{len(names)}')
    for number, name in enumerate(names, 1):
        title = CHECKS[name].__doc__.rstrip('.')
        try:
            found = list(CHECKS[name]())
        except LookupError as error:
            print(f'ok {number} - {title} # SKIP {error}')
            continue
        print(f'{"not ok" if found else "ok"} {number} - {title}')
        for path, line, why in found:
            print(f'# {path}:{line}: {why}')
            status = 1
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
