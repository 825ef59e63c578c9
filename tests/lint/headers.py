#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""headers.py BUILD_DIR CC...: every header of the tree compiles alone, as TAP.

The flags (include folders of the libraries, warnings) are those of a source file of
the same room in BUILD_DIR's compile_commands.json, or of any file where the room has
none yet.
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
    """{room: compiler flags}, and under '' those of any file."""
    with open(os.path.join(build, 'compile_commands.json'), encoding='utf-8') as f:
        commands = json.load(f)
    found = {}
    for entry in commands:
        path = os.path.relpath(os.path.join(entry['directory'], entry['file']), lint.ROOT)
        keep, words = [], shlex.split(entry['command'])
        for i, word in enumerate(words):
            if word.startswith(('-I', '-D', '-W', '-std', '-m', '-include')) or words[i - 1] in ('-isystem', '-include'):
                keep.append(word)
            elif word == '-isystem' or word.startswith('-isystem'):
                keep.append(word)
        found.setdefault(path.split(os.sep)[0], keep)
        found.setdefault('', keep)
    return found


def compile_alone(build, compiler, flags, header):
    """The compiler's complaint, or an empty text. Included twice, so that a broken guard shows."""
    source = f'#include "{header}"\n#include "{header}"\n'
    done = subprocess.run([*compiler, *flags, f'-I{lint.ROOT}', '-Werror', '-Wno-unused-function', '-fsyntax-only',
                           '-x', 'c', '-'], cwd=build, input=source, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ''


def main(argv):
    build, compiler = argv[0], argv[1:]
    rooms = flags_by_room(build)
    default = rooms.get('', ['-D_GNU_SOURCE', '-std=gnu11'])
    headers = lint.sources('.h')
    print(f'1..{len(headers)}')
    status = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        flags = [rooms.get(header.split(os.sep)[0], default) for header in headers]
        errors = pool.map(lambda pair: compile_alone(build, compiler, *pair), zip(flags, headers))
        for number, (header, error) in enumerate(zip(headers, errors), 1):
            print(f'{"not ok" if error else "ok"} {number} - {header} compiles alone')
            for line in error.splitlines():
                print(f'# {line}')
                status = 1
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
