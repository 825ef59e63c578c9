# SPDX-License-Identifier: BSD-3-Clause
"""Reading, changing and writing the header of a GGUF v3 file, for tests. No checks: what is
read is known to be good. Standard library only."""
import struct

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
FORMS = {0: '<B', 1: '<b', 2: '<H', 3: '<h', U32: '<I', I32: '<i', F32: '<f', BOOL: '<B', U64: '<Q', 11: '<q', 12: '<d'}
ALIGN = 32


class Head:
    """A file's keys [name, type, value] and tensors [name, dims, dtype, offset]; names are bytes."""

    def __init__(self, path=None):
        self.keys, self.tensors = [], []
        if path is None:
            return
        with open(path, 'rb') as f:
            self.raw = f.read()
        _, _, n_tensors, n_keys = struct.unpack_from('<IIQQ', self.raw)
        self.at = 24
        for _ in range(n_keys):
            name, kind = self.string(), self.number('<I')
            self.keys.append([name, kind, self.value(kind)])
        for _ in range(n_tensors):
            name = self.string()
            dims = [self.number('<Q') for _ in range(self.number('<I'))]
            self.tensors.append([name, dims, self.number('<I'), self.number('<Q')])

    def number(self, form):
        """The next number of this form."""
        value, = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self):
        """The next string, as bytes."""
        size = self.number('<Q')
        self.at += size
        return self.raw[self.at - size:self.at]

    def value(self, kind):
        """The next value of a type; arrays are (type, [values])."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner = self.number('<I')
            return inner, [self.value(inner) for _ in range(self.number('<Q'))]
        return self.number(FORMS[kind])

    def set(self, name, kind, value):
        """Sets a key, at the end if it is new."""
        for key in self.keys:
            if key[0] == name:
                key[1:] = [kind, value]
                return
        self.keys.append([name, kind, value])

    def tensor(self, name):
        """A tensor's description, to be changed."""
        return next(tensor for tensor in self.tensors if tensor[0] == name)

    def bytes(self):
        """The header as a file has it."""
        parts = [struct.pack('<IIQQ', 0x46554747, 3, len(self.tensors), len(self.keys))]
        parts += [string(name) + struct.pack('<I', kind) + pack(kind, value) for name, kind, value in self.keys]
        for name, dims, dtype, offset in self.tensors:
            parts.append(string(name) + struct.pack('<I', len(dims)) + struct.pack(f'<{len(dims)}Q', *dims))
            parts.append(struct.pack('<IQ', dtype, offset))
        return b''.join(parts)


def string(raw):
    """Length and bytes."""
    return struct.pack('<Q', len(raw)) + raw


def pack(kind, value):
    """A value's bytes."""
    if kind == STRING:
        return string(value)
    if kind == ARRAY:
        return struct.pack('<IQ', value[0], len(value[1])) + b''.join(pack(value[0], item) for item in value[1])
    return struct.pack(FORMS[kind], value)


def write_f32(path, keys, tensors):
    """A file of F32 tensors: keys [(name, type, value)], tensors {name: (dims, bytes)}, the contiguous dimension first."""
    head, data = Head(), b''
    head.keys = [[name.encode(), kind, value] for name, kind, value in keys]
    for name, (dims, raw) in tensors.items():
        head.tensors.append([name.encode(), list(dims), 0, len(data)])
        data += raw + bytes(-len(raw) % ALIGN)
    start = head.bytes()
    with open(path, 'wb') as f:
        f.write(start + bytes(-len(start) % ALIGN) + data)
