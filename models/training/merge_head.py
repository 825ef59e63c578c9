#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""merge_head.py MODEL.gguf HEAD.gguf OUT.gguf: adds the tensors of HEAD to MODEL.

train.py writes BERT's encoder and its masked-language-model head as two files, because the
program that gave the reference numbers refuses tensors that it does not know. Penstock
reads the head from the model's own file. Keys are MODEL's; every byte of every tensor
stays as it was, tensors of HEAD come last. Only GGUF v3 as common.py writes it is read
(alignment 32), and the standard library is all it needs.
"""
import struct
import sys

ALIGN = 32
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Gguf:
    """A file's keys as raw bytes, and its tensors as [(name, dims and dtype, bytes)]."""

    def __init__(self, path):
        with open(path, 'rb') as f:
            self.raw = f.read()
        magic, version, n_tensors, self.n_keys = struct.unpack_from('<IIQQ', self.raw)
        if magic != 0x46554747 or version != 3:
            sys.exit(f'{path}: not a GGUF v3 file')
        self.at = 24
        for _ in range(self.n_keys):
            self.skip_string()
            self.skip_value(self.take('<I'))
        self.keys = self.raw[24:self.at]
        infos = [self.tensor_info() for _ in range(n_tensors)]
        start = -(-self.at // ALIGN) * ALIGN
        ends = sorted(offset for _, _, offset in infos)[1:] + [len(self.raw) - start]
        after = dict(zip(sorted(offset for _, _, offset in infos), ends))
        self.tensors = [(name, shape, self.raw[start + offset:start + after[offset]]) for name, shape, offset in infos]

    def take(self, form):
        """The next value of this form."""
        value, = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return value

    def skip_string(self):
        """Steps over a string and returns it."""
        size = self.take('<Q')
        self.at += size
        return self.raw[self.at - size:self.at]

    def skip_value(self, kind):
        """Steps over a value of this type."""
        if kind == STRING:
            self.skip_string()
        elif kind == ARRAY:
            inner, count = self.take('<I'), self.take('<Q')
            for _ in range(count):
                self.skip_value(inner)
        else:
            self.at += SCALAR_BYTES[kind]

    def tensor_info(self):
        """(name, bytes of dimensions and dtype, offset)"""
        name, begin = self.skip_string(), self.at
        n_dims = self.take('<I')
        self.at += 8 * n_dims + 4
        return name, self.raw[begin:self.at], self.take('<Q')


def pad(data):
    """`data` up to the next multiple of the alignment."""
    return data + bytes(-len(data) % ALIGN)


def main(model_path, head_path, out_path):
    model = Gguf(model_path)
    tensors = model.tensors + Gguf(head_path).tensors
    if len({name for name, _, _ in tensors}) != len(tensors):
        sys.exit('both files have a tensor of the same name')
    header, blobs, offset = [struct.pack('<IIQQ', 0x46554747, 3, len(tensors), model.n_keys), model.keys], [], 0
    for name, shape, data in tensors:
        header.append(struct.pack('<Q', len(name)) + name + shape + struct.pack('<Q', offset))
        blobs.append(pad(data))
        offset += len(blobs[-1])
    with open(out_path, 'wb') as f:
        f.write(pad(b''.join(header)) + b''.join(blobs))


if __name__ == '__main__':
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
