#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""from_help.py PENSTOCK [--check]: writes penstock-COMMAND.1 for each command from its --help.

So the manual pages say what the program says. --check writes nothing and exits 1, as
TAP, if a page is missing or out of date. The commands are those that `penstock --help`
lists; penstock.1 itself is written by hand and must name them all.
"""
import os
import re
import subprocess
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))


def help_text(program, *command):
    """stdout of --help, which must succeed."""
    done = subprocess.run([program, *command, '--help'], capture_output=True, text=True, check=True)
    return done.stdout.expandtabs()


def commands(program):
    """[(command, what it does in a line)]."""
    return re.findall(r'^  (?!penstock )([a-z]+) +(\S.*)$', help_text(program), re.M)


def escape(text):
    """Text for roff: backslashes, hyphens, and a dot or quote at the start of a line."""
    text = text.replace('\\', '\\e').replace('-', '\\-')
    return '\n'.join('\\&' + line if line[:1] in ".'" else line for line in text.split('\n'))


def paragraphs(text):
    """Text cut at empty lines, with its lines."""
    return [block.split('\n') for block in re.split(r'\n\s*\n', text.strip('\n'))]


def body(block):
    """One paragraph: a list of options or items, indented text as it is, or running text."""
    item = re.compile(r'^ {1,6}(\S.*?)(?: {2,}(\S.*))?$')
    if all(line.startswith(' ') for line in block) and item.match(block[0]).group(2):
        out = []
        for line in block:
            m = item.match(line)
            if m and m.group(2):
                out += ['.TP', f'.B {escape(m.group(1))}', escape(m.group(2))]
            elif m and line[2:3] == '-':
                out += ['.TP', f'.B {escape(m.group(1))}']
            else:
                out.append(escape(line.strip()))
        return out
    if all(line.startswith(' ') for line in block):
        return ['.PP', '.nf', *map(escape, block), '.fi']
    out = ['.PP']
    for line in block:
        if line.startswith(' '):
            out += ['.br', escape(line.strip())]
        else:
            out.append(escape(line))
    return out


def page(command, summary, text):
    """The manual page of one command."""
    blocks = paragraphs(text)
    usage, rest = blocks[0], blocks[1:]
    if not usage[0].startswith('usage: '):
        raise SystemExit(f'penstock {command} --help does not begin with "usage: "')
    synopsis = [re.sub(r'^(usage:| {6}) ', '', line).strip() for line in usage]
    out = [f'.TH PENSTOCK\\-{command.upper()} 1 "" "Penstock" "Penstock manual"',
           '.\\" SPDX-License-Identifier: BSD-3-Clause',
           '.\\" Written by docs/man/from_help.py from the program\'s own help: change that.',
           '.SH NAME', f'penstock\\-{command} \\- {escape(summary)}', '.SH SYNOPSIS', '.nf',
           *(f'.B {escape(line)}' for line in synopsis), '.fi', '.SH DESCRIPTION']
    for block in rest:
        out += body(block)
    out += ['.SH EXIT STATUS', '0: done. 1: failed, and the reason is on stderr. 2: wrong usage.',
            '.SH SEE ALSO', '.BR penstock (1)']
    return '\n'.join(out) + '\n'


def main(argv):
    program, check = argv[0], argv[1:] == ['--check']
    found, status = commands(program), 0
    if check:
        print(f'1..{len(found) + 1}')
    for number, (command, summary) in enumerate(found, 1):
        path = os.path.join(FOLDER, f'penstock-{command}.1')
        text = page(command, summary, help_text(program, command))
        if not check:
            with open(path, 'w', encoding='utf-8') as f:
                f.write(text)
            continue
        try:
            with open(path, encoding='utf-8') as f:
                same = f.read() == text
        except FileNotFoundError:
            same = False
        print(f'{"ok" if same else "not ok"} {number} - the page of {command} says what its --help says')
        if not same:
            print(f'# write it with: docs/man/from_help.py {program}')
            status = 1
    if check:
        with open(os.path.join(FOLDER, 'penstock.1'), encoding='utf-8') as f:
            overview = f.read()
        missing = [command for command, _ in found if f'penstock\\-{command}' not in overview]
        print(f'{"not ok" if missing else "ok"} {len(found) + 1} - penstock.1 names every command {" ".join(missing)}')
        status = 1 if missing else status
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
