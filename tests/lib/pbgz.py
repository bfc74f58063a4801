# SPDX-License-Identifier: Apache-2.0
"""Reads a profile.proto file without any library: samples with names and labels."""
import gzip


def _varint(b, i):
    v = shift = 0
    while True:
        v |= (b[i] & 127) << shift
        shift += 7
        i += 1
        if b[i - 1] < 128:
            return v, i


def _fields(b):
    """(number, value) of a message: ints, or bytes."""
    i = 0
    while i < len(b):
        tag, i = _varint(b, i)
        if tag & 7 == 0:
            v, i = _varint(b, i)
        elif tag & 7 == 2:
            n, i = _varint(b, i)
            v, i = b[i:i + n], i + n
        else:
            raise ValueError(f"wire type {tag & 7}")
        yield tag >> 3, v


def _ints(values):
    """A repeated integer, packed or not."""
    out = []
    for v in values:
        i = 0
        if isinstance(v, int):
            out.append(v)
            continue
        while i < len(v):
            x, i = _varint(v, i)
            out.append(x)
    return out


def _message(b):
    m = {}
    for number, v in _fields(b):
        m.setdefault(number, []).append(v)
    return m


def _profile(path):
    with gzip.open(path) as f:
        p = _message(f.read())
    return p, [s.decode() for s in p[6]]


def comments(path):
    p, text = _profile(path)
    return [text[i] for i in _ints(p.get(13, []))]


def read(path):
    """A list of samples: {"stack": [names, leaf first], "values": [...], label: value}."""
    p, text = _profile(path)
    functions = {}
    for b in p.get(5, []):
        f = _message(b)
        functions[f[1][0]] = text[f.get(2, [0])[0]]
    locations = {}
    for b in p.get(4, []):
        m = _message(b)
        names = [functions[_message(line)[1][0]] for line in m.get(4, [])]
        locations[m[1][0]] = names or [hex(m.get(3, [0])[0])]
    samples = []
    for b in p.get(2, []):
        m = _message(b)
        s = {"stack": [n for i in _ints(m.get(1, [])) for n in locations[i]],
             "values": _ints(m.get(2, []))}
        for label in m.get(3, []):
            k = _message(label)
            s[text[k[1][0]]] = text[k[2][0]] if 2 in k else k.get(3, [0])[0]
        samples.append(s)
    return samples
