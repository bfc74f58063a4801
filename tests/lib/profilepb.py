# SPDX-License-Identifier: Apache-2.0
"""Decodes a profile file from its field numbers, without pprof's own views of it."""
import gzip
import struct


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """[(number, int or bytes)] of one message."""
    at, found = 0, []
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
        elif tag & 7 == 2:
            size, at = _varint(data, at)
            value = data[at:at + size]
            at += size
        else:
            raise ValueError(f"wire type {tag & 7}")
        found.append((tag >> 3, value))
    return found


def _signed(value):
    return struct.unpack("q", struct.pack("Q", value))[0]


def _numbers(pairs, number):
    """A repeated number, packed or not."""
    found = []
    for n, value in pairs:
        if n != number:
            continue
        if isinstance(value, int):
            found.append(_signed(value))
        at = 0
        while isinstance(value, bytes) and at < len(value):
            v, at = _varint(value, at)
            found.append(_signed(v))
    return found


class Profile:
    """types, mappings {id: dict}, locations {id: dict with lines, innermost first},
    samples [(location ids, values, labels)]."""

    def __init__(self, path):
        with gzip.open(path) as f:
            top = fields(f.read())
        self.strings = [v.decode() for n, v in top if n == 6]
        self.types = [self._text(dict(fields(v)).get(1, 0)) for n, v in top if n == 1]
        self.mappings = dict(self._mapping(v) for n, v in top if n == 3)
        functions = dict(self._function(v) for n, v in top if n == 5)
        self.functions = functions
        self.locations = dict(self._location(v, functions) for n, v in top if n == 4)
        self.samples = [self._sample(v) for n, v in top if n == 2]
        self.comments = [self._text(i) for i in _numbers(top, 13)]

    def _text(self, i):
        return self.strings[i]

    def _mapping(self, data):
        f = dict(fields(data))
        names = ["functions", "filenames", "line_numbers", "inline_frames"]
        flags = {k: bool(f.get(7 + i, 0)) for i, k in enumerate(names)}
        return f[1], {"start": f.get(2, 0), "limit": f.get(3, 0), "offset": f.get(4, 0),
                      "file": self._text(f.get(5, 0)), "build_id": self._text(f.get(6, 0)),
                      "flags": flags}

    def _function(self, data):
        f = dict(fields(data))
        return f[1], {"name": self._text(f.get(2, 0)), "system": self._text(f.get(3, 0)),
                      "file": self._text(f.get(4, 0)), "start": f.get(5, 0)}

    @staticmethod
    def _location(data, functions):
        pairs = fields(data)
        f = dict(pairs)
        lines = []
        for n, value in pairs:
            if n == 4:
                line = dict(fields(value))
                lines.append(dict(functions[line[1]], line=line.get(2, 0)))
        return f[1], {"mapping": f.get(2, 0), "address": f.get(3, 0), "lines": lines}

    def _sample(self, data):
        pairs = fields(data)
        labels = {}
        for n, value in pairs:
            if n == 3:
                f = dict(fields(value))
                labels[self._text(f[1])] = self._text(f[2]) if f.get(2) else f.get(3, 0)
        return _numbers(pairs, 1), _numbers(pairs, 2), labels

    def stacks(self, sample_type):
        """[(value, [frames, innermost first])], inlined ones expanded."""
        i = self.types.index(sample_type)
        return [(values[i], [line for l in ids for line in self.locations[l]["lines"]])
                for ids, values, _ in self.samples]
