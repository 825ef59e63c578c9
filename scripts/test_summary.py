#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_summary.py [--leftovers STATUS FILE] LOG.json...: counts single test cases.

Reads the logs of `meson test` (one JSON object a line) and counts what each test
program reports: TAP lines ("ok", "not ok", "# SKIP"), cmocka's lines ("[ RUN ]",
"[ OK ]", "[ FAILED ]", "[ SKIPPED ]"), and for a program with neither the program
itself (exit status 77: skipped). Prints why cases were skipped and which failed,
and as the last line "N passed, N failed, N skipped". A program that ends badly
counts as at least one failure whatever it printed. Exit status 0 only if something
passed and nothing failed.
"""
import json
import re
import sys

TAP = re.compile(r'^(not )?ok\b[ \t]*\d*[ \t]*-?[ \t]*([^#\n]*)(#[ \t]*(SKIP|TODO)\b[ \t]*(.*))?', re.I)
PLAN = re.compile(r'^1\.\.(\d+)(?:[ \t]*#[ \t]*SKIP[ \t]*(.*))?', re.I)
CMOCKA = re.compile(r'^\[ *(RUN|OK|FAILED|SKIPPED|ERROR) *\] (.*)$')


class Counts:
    """Passed cases by number, failed and skipped ones by name and reason."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []

    def __len__(self):
        return self.passed + len(self.failed) + len(self.skipped)


def count_tap(lines):
    """The cases of a TAP stream, or None if it is not one."""
    out, plan = Counts(), None
    for line in lines:
        m = PLAN.match(line)
        if m:
            plan = int(m.group(1))
            if plan == 0:
                out.skipped.append(('(all)', m.group(2) or 'no reason given'))
            continue
        m = TAP.match(line)
        if not m:
            continue
        name, directive = m.group(2).strip(), (m.group(4) or '').upper()
        if directive == 'SKIP':
            out.skipped.append((name, m.group(5) or 'no reason given'))
        elif m.group(1):
            out.failed.append((name, ''))
        else:
            out.passed += 1
    if plan is None and len(out) == 0:
        return None
    if plan is None:
        out.failed.append(('(plan)', 'the program ended before its plan line "1..N"'))
    elif plan and plan != len(out):
        out.failed.append(('(plan)', f'{plan} cases planned, {len(out)} ran'))
    return out


def count_cmocka(lines):
    """The cases of cmocka's standard output, or None if it is not that."""
    out, running = Counts(), None
    for line in lines:
        m = CMOCKA.match(line)
        if not m:
            continue
        kind, name = m.group(1), m.group(2).strip()
        if kind == 'RUN':
            if running:
                out.failed.append((running, 'it never ended'))
            running = name
        elif running and name == running:
            running = None
            if kind == 'OK':
                out.passed += 1
            elif kind == 'SKIPPED':
                out.skipped.append((name, skip_reason(lines)))
            else:
                out.failed.append((name, ''))
    if running:
        out.failed.append((running, 'it never ended'))
    return out if len(out) else None


def skip_reason(lines):
    """The last line that says why something was skipped."""
    for line in reversed(lines):
        if re.search(r'\bskip(ped)?\b', line, re.I) and not CMOCKA.match(line):
            return line.strip()
    for line in reversed(lines):
        if line.strip() and not CMOCKA.match(line):
            return line.strip()
    return 'no reason given'


def count_program(test):
    """The cases of one program of meson's log."""
    out_lines = (test.get('stdout') or '').splitlines()
    all_lines = out_lines + (test.get('stderr') or '').splitlines()
    code, result = test['returncode'], test['result']
    bad = code not in (0, 77) or result in ('TIMEOUT', 'INTERRUPT', 'ERROR')
    # cmocka prints part of its lines on either stream; merged they lose their order, so
    # each stream is tried alone first.
    counts = count_tap(out_lines)
    if counts is None:
        counts = count_cmocka(out_lines) or count_cmocka((test.get('stderr') or '').splitlines())
    if counts is None:
        counts = Counts()
        if bad:
            pass
        elif code == 77:
            counts.skipped.append(('', skip_reason(all_lines)))
        else:
            counts.passed = 1
    if bad and not counts.failed:
        why = 'timed out' if result == 'TIMEOUT' else f'exit status {code}'
        counts.failed.append(('', why))
    return counts


def main(argv):
    passed, failed, skipped = 0, [], []
    if argv and argv[0] == '--leftovers':
        status, path, argv = int(argv[1]), argv[2], argv[3:]
        if status == 0:
            passed += 1
        else:
            with open(path, encoding='utf-8') as f:
                failed.append('nothing is left behind: ' + '; '.join(f.read().splitlines()))
    for log in argv:
        suite = log.rsplit('/', 1)[-1].removesuffix('.json')
        with open(log, encoding='utf-8') as f:
            tests = [json.loads(line) for line in f if line.strip()]
        if not tests:
            failed.append(f'{suite}: no test ran')
        for test in tests:
            counts = count_program(test)
            passed += counts.passed
            where = f'{suite}: {test["name"].rsplit(" / ", 1)[-1]}'
            for name, why in counts.failed:
                failed.append(f'{where}{": " if name else ""}{name}{" (" + why + ")" if why else ""}')
            for name, why in counts.skipped:
                skipped.append(f'{where}{": " if name else ""}{name} ({why})')
    for line in skipped:
        print(f'skipped  {line}')
    for line in failed:
        print(f'FAILED   {line}')
    print(f'{passed} passed, {len(failed)} failed, {len(skipped)} skipped')
    return 0 if passed and not failed else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
