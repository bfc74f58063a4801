# SPDX-License-Identifier: Apache-2.0
"""Real programs print the same, and end the same, with return stubs on their frames."""
import os
import shutil
import unittest
import pbgz
import seeptest

OPTIONS = ["mode=sampled:sample=512:escape=exact",  # about every tenth object
           "mode=exact:escape=exact"]
PYTHON = ("import json,threading\n"
          "d={str(i):[i]*(i%9) for i in range(800)}\n"
          "def f(n):\n"
          " try:\n"
          "  if n: return f(n-1)\n"
          "  raise ValueError('x'*50)\n"
          " except ValueError as e: return len(str(e))+n\n"
          "ts=[threading.Thread(target=lambda:json.loads(json.dumps(d))) for _ in range(3)]\n"
          "[t.start() for t in ts]; [t.join() for t in ts]\n"
          "print(f(100),len(json.dumps(d)))\n")
LUA = ("local t={} for i=1,3000 do t[i]=tostring(i)..('x'):rep(i%40) end table.sort(t) "
       "print(t[1],t[3000],pcall(error,{})==false) local co=coroutine.wrap(function() "
       "for i=1,300 do coroutine.yield(('y'):rep(i)) end end) local n=0 "
       "for i=1,300 do n=n+#co() end print(n)")
SQL = ("create table t(a integer primary key,b text); with recursive c(x) as (select 1 union "
       "all select x+1 from c where x<900) insert into t select x,hex(x*7) from c; select "
       "count(*),max(b) from t; create index i on t(b); select sum(a) from t where b>'5'; "
       "select a from nowhere;")
PERL = ("my %h; $h{$_}='x'x($_%30) for 1..3000; eval { die {a=>1} }; "
        "print scalar(keys %h), ref $@, join(',', (sort keys %h)[0..3])")
NODE = ("const a=[];for(let i=0;i<3000;i++)a.push({i,s:'x'.repeat(i%50)});"
        "console.log(JSON.stringify(a).length);try{JSON.parse('{')}catch(e){console.log(e.name)}")
CXX = ("#include <map>\n#include <string>\nint main(){std::map<std::string,int> m;"
       "m[\"a\"]=1;return m.size()-1;}\n")
SMT = ("(declare-fun f (Int) Int)(declare-const a Int)(declare-const b Int)"
       "(assert (> (f a) (f b)))(assert (= (+ a b) 10))(check-sat)(get-model)\n")


class Programs(seeptest.TestCase):
    def same(self, argv, text=None, all_options=OPTIONS):
        if not shutil.which(argv[0]):
            raise unittest.SkipTest(argv[0])
        if text is not None:
            path = os.path.join(self.dir, "input")
            with open(path, "w") as f:
                f.write(text)
            argv = [path if a == "INPUT" else a for a in argv]
        plain = seeptest.run(argv, preload=False)
        for options in all_options:
            r = seeptest.run(argv, options=f"{options}:out={self.dir}/%e.%p")
            self.assertEqual((r.returncode, r.stdout, r.stderr),
                             (plain.returncode, plain.stdout, plain.stderr), options)

    def test_python(self):
        self.same(["/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3",
                   "-c", PYTHON])

    def test_lua(self):
        self.same(["lua5.4", "-e", LUA])

    def test_sqlite(self):
        self.same(["sqlite3", ":memory:", SQL])

    def test_perl(self):
        self.same(["perl", "-e", PERL])

    def test_node(self):
        self.same(["node", "-e", NODE], all_options=OPTIONS[:1])

    def test_gcc(self):
        self.same(["g++", "-x", "c++", "-fsyntax-only", "INPUT"], CXX, OPTIONS[:1])

    def test_clang(self):
        self.same(["clang++", "-x", "c++", "-fsyntax-only", "INPUT"], CXX, OPTIONS[:1])

    def test_z3(self):
        self.same(["z3", "INPUT"], SMT, OPTIONS[:1])

    def test_gs(self):
        self.same(["gs", "-q", "-dNODISPLAY", "-dBATCH", "-c",
                   "0 1 500 { dup 10 string cvs length pop pop } for (done) = quit"])

    def test_a_profile_comes_out(self):
        r = seeptest.run(["perl", "-e", PERL],
                         options=f"mode=exact:escape=exact:out={self.dir}/%e.%p")
        self.assertEqual(r.returncode, 0)
        samples = pbgz.read(self.one("perl.*.escape.pb.gz"))
        for word in ("none", "heap"):
            self.assertTrue([s for s in samples if s["escape"] == word], word)
        self.assertTrue([s for s in samples if s["confidence"] == "exact"])


seeptest.main()
