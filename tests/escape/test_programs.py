# SPDX-License-Identifier: Apache-2.0
"""Real programs print the same, and end the same, with return stubs on their frames."""
import glob
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


REDIS = """
redis-server --port 0 --unixsocket $PWD/redis.sock --save '' --daemonize no > log 2>&1 &
pid=$!
cli() { env -u LD_PRELOAD redis-cli -s $PWD/redis.sock "$@"; }
until cli ping > /dev/null 2>&1; do kill -0 $pid || exit 9; done
cli eval "local t={} for i=1,2000 do redis.call('rpush','l',string.rep('x',i%90)) t[i]=i end
 return #t" 0
cli eval "return pcall(redis.call,'nothing')" 0
cli sort l alpha limit 0 3 desc
for i in 1 2 3; do cli set key$i value; cli append key$i more; cli get key$i; done
cli debug reload; cli object encoding l; cli llen l; cli zadd z 1 a 2 b; cli zrange z 0 -1
cli shutdown nosave > /dev/null 2>&1
wait $pid
echo status $?
"""
POSTGRES = """
cp -r plain/. data && chmod 700 data
$PG/postgres -D data -k $PWD -h '' -c fsync=off > log 2>&1 &
pid=$!
sql() { env -u LD_PRELOAD $PG/psql -h $PWD -X -d postgres "$@" 2>&1; }
until sql -c 'select 1' > /dev/null; do kill -0 $pid || { cat log; exit 9; }; done
sql -f - << 'END'
create table t(a serial primary key, b text, c jsonb);
insert into t(b, c) select md5(i::text), jsonb_build_object('i', i, 'l', array[i, i * 2])
 from generate_series(1, 3000) i;
create index on t(b); analyze t;
select count(*), max(b), sum((c->>'i')::int) from t;
select b from t order by reverse(b) limit 5;
select a / 0 from t;
do $$ begin perform 1 / 0; exception when division_by_zero then raise notice 'caught'; end $$;
create function f(n int) returns int language plpgsql as $$ begin
 if n < 2 then return n; end if; return f(n - 1) + f(n - 2); end $$;
select f(12), regexp_replace('aaab', 'a+', 'c'), to_char(date '2020-02-03', 'Day DD');
with recursive r(n) as (select 1 union all select n + 1 from r where n < 500) select sum(n) from r;
END
kill -INT $pid; wait $pid
echo status $?
"""


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

    def test_redis(self):
        if not shutil.which("redis-server"):
            self.skipTest("redis-server")
        self.same_script(REDIS)

    def test_postgres(self):
        """A server of several processes; errors leave their frames by siglongjmp."""
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
        if not found:
            self.skipTest("postgres")
        if os.getuid() == 0 and not seeptest.may_become():
            self.skipTest("root may not be somebody else")
        os.chmod(self.dir, 0o777)
        env = {"PG": os.path.dirname(found[-1]), "HOME": self.dir}
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        r = seeptest.run("$PG/initdb -D plain -A trust -U postgres -N", preload=False, env=env,
                         cwd=self.dir, **who)
        self.assertEqual(r.returncode, 0, r.stderr)
        r = self.same_script(POSTGRES, env={**env, "PGUSER": "postgres"}, **who)
        self.assertIn(b"NOTICE:  caught", r.stdout)

    def same_script(self, script, env=None, **kw):
        """Commands whose output is compared; each run has a directory of its own."""
        results = []
        for i, options in enumerate([None, OPTIONS[0]]):
            here = os.path.join(self.dir, str(i))
            os.mkdir(here, 0o777)
            os.chmod(here, 0o777)
            if os.path.exists(os.path.join(self.dir, "plain")):
                os.symlink("../plain", os.path.join(here, "plain"))
            results.append(seeptest.run(script, options=f"{options}:out={here}/%e.%p",
                                        preload=options is not None, env=env, cwd=here, **kw))
        plain, r = results
        self.assertIn(b"status 0", plain.stdout)
        self.assertEqual((r.returncode, r.stdout, r.stderr),
                         (plain.returncode, plain.stdout, plain.stderr))
        followed = [s for path in glob.glob(f"{self.dir}/1/*.escape.pb.gz")
                    for s in pbgz.read(path)]
        self.assertGreater(sum(s["samples"] for s in followed if s["confidence"] == "exact"), 50)
        return r

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
