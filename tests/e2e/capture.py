#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""capture.py: dpdk-dumpcap sees the packets of a running deployment.

Capture needs a hugetlbfs mount: this program makes one in a mount namespace of its own
(it starts itself again under unshare), so that the host keeps none.
"""
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import deployments
import runs
from runs import h

MAGIC = 0x5350
UDP_PORT = 7600
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP


def need():
    """What a capture takes."""
    if os.geteuid() != 0:
        raise h.Skipped('capture needs root: a hugetlbfs mount')
    for program in ('dpdk-dumpcap', 'unshare', 'mount'):
        if not shutil.which(program):
            raise h.Skipped(f'{program} is not installed')


def packets(path):
    """The packets of a libpcap file."""
    with open(path, 'rb') as f:
        raw = f.read()
    order = {b'\xd4\xc3\xb2\xa1': '<', b'\xa1\xb2\xc3\xd4': '>', b'\x4d\x3c\xb2\xa1': '<', b'\xa1\xb2\x3c\x4d': '>'}
    if raw[:4] not in order:
        raise h.Failed(f'no libpcap file: begins with {raw[:4]!r}')
    place, found = 24, []
    while place + 16 <= len(raw):
        length = struct.unpack_from(order[raw[:4]] + 'I', raw, place + 8)[0]
        found.append(raw[place + 16:place + 16 + length])
        place += 16 + length
    return found


def ours(packet):
    """Whether a packet is UDP to the deployment's port and begins as PROTOCOL.md says."""
    if len(packet) < HEADERS + 2 or packet[12:14] != b'\x08\x00' or packet[23] != 17:
        return False
    port = struct.unpack_from('>H', packet, 14 + 20 + 2)[0]
    return port == UDP_PORT and struct.unpack_from('<H', packet, HEADERS)[0] == MAGIC


def start_capture(prefix, path):
    """dpdk-dumpcap on port 0 of one process, once it has attached."""
    process = subprocess.Popen(['dpdk-dumpcap', f'--file-prefix={prefix}', '-i', '0', '-P', '-w', path],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 15
    while not (os.path.exists(path) and os.path.getsize(path) >= 24):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise h.Failed(f'dpdk-dumpcap did not start: {process.communicate()[0].decode(errors="replace")[-1500:]}')
        time.sleep(0.05)
    return process


def capture(folder):
    """Captures while text is generated; the text must not suffer."""
    expected = runs.greedy_text(runs.shipped_model(), runs.PROMPT, deployments.TOKENS)
    path = os.path.join(folder, 'out.pcap')
    with deployments.deployment('three-stages-memif.yaml', '--capture') as (_, deployed, _stages):
        memory = next(process['memory'] for process in deployments.status_of(deployed) if process['name'] == 's1')
        prefix = dict(word.split('=', 1) for word in memory.split() if '=' in word)['prefix']
        process = start_capture(prefix, path)
        try:
            out, _ = deployments.call('run', '--attach', deployed, '--prompt', runs.PROMPT, '--tokens', deployments.TOKENS,
                                      '--temperature', 0)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=15)
    if out != expected + '\n':
        raise h.Failed(f'got      {out!r}\nexpected {expected!r}')
    found = [packet for packet in packets(path) if ours(packet)]
    if len(found) < deployments.TOKENS:
        raise h.Failed(f'{len(found)} packets of ours for {deployments.TOKENS} tokens')
    return f'{len(found)} packets'


def check():
    """In a mount namespace of our own, with a hugetlbfs."""
    need()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(['unshare', '-m', sys.executable, os.path.abspath(__file__), '--inside', folder],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise h.Failed(done.stderr[-3000:])
        return done.stdout.strip()


def inside(folder):
    """The part that runs in the namespace: prints a note, or ends with a complaint."""
    runs.end_on_signal()
    mount = os.path.join(folder, 'huge')
    os.mkdir(mount)
    subprocess.run(['mount', '-t', 'hugetlbfs', 'nodev', mount], check=True)
    try:
        print(capture(folder))
    except (h.Failed, h.Skipped) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        subprocess.run(['umount', mount], check=False)
        os.rmdir(mount)
    return 0


def main():
    if sys.argv[1:2] == ['--inside']:
        return inside(sys.argv[2])
    tap = h.Tap()
    tap.check('dpdk-dumpcap captures a port', check)
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
