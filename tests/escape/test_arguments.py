# SPDX-License-Identifier: Apache-2.0
"""Calls are reported as they are written: a count and a size, an alignment and a size."""
import json
import os
import sys
import seeptest

CALLS = {
    "make_conf": "calloc(1,256)",
    "make_array": "calloc(1..40,24)",
    "make_many": "reallocarray(3..42,40)",
    "make_aligned": "memalign(64,100)",
    "make_page": "posix_memalign(4096,5000)",
    "make_pages": "calloc(1000,4096)",
    "make_line": "operator new(128, 64)",
    "make_plain": "malloc(256)",
}


class Arguments(seeptest.TestCase):
    def escape(self, *args):
        r = seeptest.seep("escape", "-o", f"{self.dir}/x.%p", "--top", "0", *args, "--", PROGRAM)
        self.assertEqual(r.returncode, 0)
        return r.stderr.decode()

    def test_every_object(self):
        text = self.escape()
        for name, call in CALLS.items():
            self.assertIn(f": {call} in {name} ", text)
        self.assertIn("calloc(1,256) in make_conf escapes to global conf_root (seen ", text)

    def test_sampled(self):
        """The count is that of the object that was followed, whatever came in between."""
        text = self.escape("--sample", "300", "-O", "seed=3")
        for name in ("make_conf", "make_pages", "make_page", "make_plain"):
            self.assertIn(f": {CALLS[name]} in {name} ", text)

    def test_lifetimes(self):
        """Their distribution, in steps of a factor of two, holds all samples."""
        for s in json.loads(self.escape("--format", "json"))["profiles"][0]["sites"]:
            self.assertEqual(sum(l["samples"] for l in s["lifetimes"]), s["samples"])
            self.assertEqual([l["below_ns"] for l in s["lifetimes"]],
                             sorted({l["below_ns"] for l in s["lifetimes"]}))
            self.assertTrue(any(l["from_ns"] <= s["median_ns"] < l["below_ns"]
                                for l in s["lifetimes"]))

    def test_json(self):
        sites = json.loads(self.escape("--format", "json"))["profiles"][0]["sites"]
        conf, plain = [next(s for s in sites if s["function"] == f"make_{n}")
                       for n in ("conf", "plain")]
        self.assertEqual((conf["argument_min"], conf["argument_max"], conf["size_max"]),
                         (1, 1, 256))
        self.assertNotIn("argument_min", plain)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
