#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""headers.py BUILD_DIR CC...: every header of the tree compiles alone, as TAP.

The flags (include folders of the libraries, warnings) are those of the source files of
the same room in BUILD_DIR's compile_commands.json, or of all files where the room has
none.
"""
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lint  # pylint: disable=wrong-import-position


def flags_by_room(build):
    """{room: the compiler flags of all its files together}, and under '' those of all rooms."""
    with open(os.path.join(build, 'compile_commands.json'), encoding='utf-8') as f:
        commands = json.load(f)
    found = {'': {}}
    for entry in commands:
        room = os.path.relpath(os.path.join(entry['directory'], entry['file']), lint.ROOT).split(os.sep)[0]
        words = shlex.split(entry['command'])
        for i, word in enumerate(words):
            pair = word in ('-isystem', '-include')
            if pair or word.startswith(('-I', '-D', '-W', '-std', '-m', '-isystem')):
                flag = tuple(words[i:i + 2]) if pair else (word,)
                # A dict keeps the order in which they came.
                found.setdefault(room, {})[flag] = found[''][flag] = True
    return {room: [word for flag in flags for word in flag] for room, flags in found.items()}


def compile_alone(build, compiler, flags, header):
    """The compiler's complaint, or an empty text. Included twice, so that a broken guard shows."""
    source = f'#include "{header}"\n#include "{header}"\n'
    done = subprocess.run([*compiler, *flags, f'-I{lint.ROOT}', '-Werror', '-Wno-unused-function', '-fsyntax-only',
                           '-x', 'c', '-'], cwd=build, input=source, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ''


def main(argv):
    build, compiler = argv[0], argv[1:]
    rooms = flags_by_room(build)
    headers = lint.sources('.h')
    print(f'1..{len(headers)}')
    status = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        flags = [rooms.get(header.split(os.sep)[0], rooms['']) for header in headers]
        errors = pool.map(lambda pair: compile_alone(build, compiler, *pair), zip(flags, headers))
        for number, (header, error) in enumerate(zip(headers, errors), 1):
            print(f'{"not ok" if error else "ok"} {number} - {header} compiles alone')
            for line in error.splitlines():
                print(f'# {line}')
                status = 1
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
