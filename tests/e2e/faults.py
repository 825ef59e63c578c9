#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""faults.py: what goes wrong in a run ends in a clear error, soon, and leaves nothing behind.

kill -9 of each stage, Ctrl-C, SIGTERM, and kill -9 of `penstock run` itself, all while
text is being written by a model that takes its time.
"""
import os
import signal
import sys
import tempfile
import time

import runs
import slow_model
from runs import h

STAGES = 3
ERROR_WITHIN_S = 2.0


def start(model, driver, own_group=False):
    """A run that would take long, at the moment when its first text has come."""
    if driver == 'af_xdp':
        runs.need_af_xdp()
    running = runs.Run('run', '--topology', runs.DEFAULT_TOPOLOGY, '--model', model, '--driver', driver, '--stages', STAGES,
                       '--prompt', 'w1 w2', '--tokens', 3000, own_group=own_group)
    running.first_output()
    return running


def check_kill_stage(model, driver, number):
    """kill -9 of one stage: the client names the trouble within two seconds."""
    with runs.nothing_left():
        running = start(model, driver)
        stages = runs.stages_of(running.process.pid, STAGES)
        name = sorted(stages)[number]
        killed = time.monotonic()
        os.kill(stages[name], signal.SIGKILL)
        status, _, err = running.wait(20.0)
        seconds = time.monotonic() - killed
        if status == 0:
            raise h.Failed('exit status 0 although a stage was killed')
        if status < 0:
            raise h.Failed(f'penstock run itself died of signal {-status}: {err[-1000:]}')
        if name not in err:
            raise h.Failed(f'stderr does not name the stage {name}: {err[-1000:]}')
        if seconds > ERROR_WITHIN_S:
            raise h.Failed(f'the error came after {seconds:.2f} s: {err[-1000:]}')
    return f'{name}: error after {seconds * 1000:.0f} ms'


def check_interrupt(model, driver, number, whole_group):
    """Ctrl-C reaches all processes of the terminal's group; a plain signal only the first."""
    with runs.nothing_left():
        running = start(model, driver, own_group=whole_group)
        began = time.monotonic()
        (os.killpg if whole_group else os.kill)(running.process.pid, number)
        status, _, err = running.wait(20.0)
        seconds = time.monotonic() - began
        if status == 0:
            raise h.Failed('exit status 0 although it was interrupted')
        if status < 0 and -status != number:
            raise h.Failed(f'died of signal {-status}: {err[-1000:]}')
        if seconds > 5.0:
            raise h.Failed(f'took {seconds:.1f} s to end')
    return f'ended after {seconds * 1000:.0f} ms'


def check_kill_launcher(model):
    """Even kill -9 of `penstock run` leaves no process, and the next run works."""
    before = runs.leftovers.state()
    running = start(model, 'memif')
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    running.process.stdout.close()
    running.process.stderr.close()
    alive = [name for kind, name in runs.leftovers.settled(before, 10.0) if kind == 'process']
    if alive:
        runs.leftovers.remove(before)
        raise h.Failed(f'still running: {alive}')
    runs.run('--prompt', runs.PROMPT, '--tokens', 8)
    left = runs.leftovers.settled(before)
    if left:
        runs.leftovers.remove(before)
        raise h.Failed(f'the next run did not clear away what the killed one left: {left}')


def main():
    runs.end_on_signal()
    tap = h.Tap()
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, 'slow.gguf')
        slow_model.write(model)
        for number in range(STAGES):
            tap.check(f'kill -9 of stage {number} over memif', check_kill_stage, model, 'memif', number)
        tap.check('kill -9 of stage 1 over af_xdp', check_kill_stage, model, 'af_xdp', 1)
        tap.check('Ctrl-C over memif', check_interrupt, model, 'memif', signal.SIGINT, True)
        tap.check('Ctrl-C over af_xdp', check_interrupt, model, 'af_xdp', signal.SIGINT, True)
        tap.check('SIGTERM over memif', check_interrupt, model, 'memif', signal.SIGTERM, False)
        tap.check('kill -9 of penstock run', check_kill_launcher, model)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
