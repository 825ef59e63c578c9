# SPDX-License-Identifier: BSD-3-Clause
"""What the e2e programs share: starting `penstock run`, watching it, and what it leaves.

Processes stay in the test's own process group, so that whoever ends the test ends them
too; each of them cleans up when it gets SIGTERM.
"""
import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import harness as h  # noqa: E402
import leftovers  # noqa: E402

TOPOLOGIES = os.path.join(h.ROOT, 'topology')
DEFAULT_TOPOLOGY = os.path.join(TOPOLOGIES, 'three-stages-memif.yaml')
PROMPT = 'Now when Jesus was'


def shipped_model():
    """The GGUF that the default topology names."""
    found = sorted(glob.glob(os.path.join(h.ROOT, 'models', '**', '*llama*.gguf'), recursive=True))
    if not found:
        raise h.Failed('no llama model in models/')
    return found[0]


def need_af_xdp():
    """AF_XDP tests make namespaces and load an XDP program: that takes root's capabilities."""
    if os.geteuid() != 0:
        raise h.Skipped('AF_XDP needs root')
    name = f'penstock-probe-{os.getpid()}'
    done = subprocess.run(['ip', 'netns', 'add', name], capture_output=True, text=True, check=False)
    used = subprocess.run(['ip', 'netns', 'exec', name, 'true'], capture_output=True, text=True, check=False)
    subprocess.run(['ip', 'netns', 'delete', name], capture_output=True, check=False)
    if done.returncode != 0 or used.returncode != 0:
        raise h.Skipped(f'no network namespaces here: {(done.stderr + used.stderr).strip()}')


class Run:
    """A `penstock` process started in the background, its output in memory."""

    def __init__(self, *args, prefix=(), program=h.PENSTOCK, env=None, own_group=False):
        self.command = [*prefix, program, *map(str, args)]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})}, start_new_session=own_group)
        leftovers.note(self.process.pid)

    def wait(self, timeout=60.0):
        """(exit status, stdout, stderr); a hang is ended and is a failure."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                out, err = self.process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                # Its processes' numbers, too, are in the names of what may be left.
                for pid in descendants(self.process.pid):
                    leftovers.note(pid)
            if time.monotonic() > deadline:
                self.end()
                out, err = self.process.communicate()
                raise h.Failed(f'{" ".join(self.command)}: still running after {timeout} s\n'
                               f'{err.decode(errors="replace")[-2000:]}')
        return self.process.returncode, out.decode(errors='replace'), err.decode(errors='replace')

    def end(self):
        """Ends it and what it started."""
        children = descendants(self.process.pid)
        for pid in [self.process.pid, *children]:
            leftovers.end_process(pid)

    def first_output(self, timeout=20.0):
        """Waits until text comes: the pipeline is at work then."""
        fd = self.process.stdout.fileno()
        os.set_blocking(fd, False)
        deadline = time.monotonic() + timeout
        got = b''
        while not got and time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(BlockingIOError):
                got = os.read(fd, 4096)
            time.sleep(0.01)
        os.set_blocking(fd, True)
        if not got:
            self.end()
            _, err = self.process.communicate()
            raise h.Failed(f'no text after {timeout} s: {err.decode(errors="replace")[-2000:]}')


def run(*args, timeout=60.0, topology=DEFAULT_TOPOLOGY, **options):
    """Runs `penstock run` to its end; anything but success is a failure. Returns (stdout, stderr)."""
    status, out, err = Run('run', '--topology', topology, *args, **options).wait(timeout)
    if status != 0:
        raise h.Failed(f'penstock run {" ".join(map(str, args))}: exit status {status}\n{err[-3000:]}')
    return out, err


def parents():
    """{pid: parent's pid} of all processes."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
                found[int(pid)] = int(f.read().rsplit(')', 1)[1].split()[1])
    return found


def descendants(pid):
    """Processes that a process started, and those that these started."""
    tree, found, queue = parents(), [], [pid]
    while queue:
        top = queue.pop()
        below = [child for child, parent in tree.items() if parent == top]
        found += below
        queue += below
    return found


def command_line(pid):
    """The words of a process's command line."""
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as f:
            return f.read().decode(errors='replace').split('\0')[:-1]
    except OSError:
        return []


def stages_of(launcher, count, timeout=15.0):
    """{name: pid} of the stage processes of a launcher, once there are `count` of them."""
    deadline = time.monotonic() + timeout
    while True:
        found = {}
        for pid in descendants(launcher):
            words = command_line(pid)
            if 'stage' in words[1:2] and '--name' in words:
                found[words[words.index('--name') + 1]] = pid
        if len(found) >= count:
            return found
        if time.monotonic() > deadline:
            raise h.Failed(f'{len(found)} stage processes after {timeout} s, expected {count}: {sorted(found)}')
        time.sleep(0.02)


def greedy_text(model, prompt, count):
    """What one process writes: the text of `count` greedy tokens after a prompt."""
    status, stdout, stderr = h.penstock('tokenize', model, stdin=prompt.encode())
    if status != 0:
        raise h.Failed(stderr)
    result = h.evaluate(model, json.loads(stdout), greedy=count)
    status, stdout, stderr = h.penstock('tokenize', model, '--decode', stdin=json.dumps(result.greedy).encode())
    if status != 0:
        raise h.Failed(stderr)
    return stdout.decode()


@contextlib.contextmanager
def nothing_left():
    """Whatever happens inside, nothing more may be on the host afterwards."""
    before = leftovers.state()
    yield
    left = leftovers.settled(before)
    if left:
        leftovers.remove(before)
        raise h.Failed('left behind: ' + ', '.join(f'{kind} {name}' for kind, name in left))


def end_on_signal():
    """SIGTERM (meson's) becomes an exception, so that the clean-up of `with` blocks runs."""
    def handler(number, _frame):
        raise SystemExit(128 + number)
    signal.signal(signal.SIGTERM, handler)
