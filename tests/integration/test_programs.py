# SPDX-License-Identifier: Apache-2.0
"""Unmodified programs from Debian's packages: stdout and status are those of a plain run."""
import os
import shutil
import seeptest

BIG_CXX = """
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>
int main() {
  std::map<std::string, std::vector<int>> m;
  for (int i = 0; i < 100; i++) m[std::to_string(i)].push_back(i);
  std::regex r("a+");
  std::cout << m.size() << std::regex_match("aaa", r) << std::endl;
}
"""
PROGRAMS = {
    "sqlite3": """sqlite3 :memory: "create table t(a,b); with recursive c(x) as (select 1
        union all select x+1 from c where x<50000) insert into t select x,x*7%1000 from c;
        create index i on t(b); select count(*),sum(a) from t where b<500;" """,
    "python3": """PYTHONMALLOC=malloc /usr/bin/python3 -c 'import json
d=[{str(i):[i]*3} for i in range(20000)]; s=json.dumps(d)
print(len(s), len(json.loads(s)))'""",
    "perl": """perl -e '%h=map{$_=>"x$_"}1..50000; print scalar(keys %h),"\\n"'""",
    "lua": """lua5.4 -e 'local t={} for i=1,60000 do t[i]={i,tostring(i)} end print(#t)'""",
    "git": """rm -rf clone && git clone -q repo clone && git -C clone gc -q &&
        git -C clone fsck --full 2>&1 && git -C clone log -p --stat""",
    "node": """node -e 'let a=[];for(let i=0;i<5e4;i++)a.push({i,s:"x"+i});
        console.log(JSON.stringify(a).length)'""",
    "gs": """echo '(1 2 add) = quit' | gs -q -dNODISPLAY -dBATCH -dNOPAUSE -""",
    "z3": """echo '(declare-const x Int)(assert (> (* x x) 50))(assert (< x 20))
        (check-sat)' | z3 -in""",
    "clang": """clang++ -O1 -std=c++17 -c big.cc -o big.o && md5sum < big.o""",
    "pipeline": """seq 1 30000 | sort -R --random-source=/dev/zero | sort -n | uniq |
        md5sum; (exit 3) || echo $?""",
    "php": """php -r '$a=[];for($i=0;$i<30000;$i++)$a[]=str_repeat("a",$i%50);
        echo count($a),"\\n";'""",
    "gawk": """gawk 'BEGIN{for(i=0;i<50000;i++)a[i%1000]=a[i%1000] i%10;
        print length(a)}'""",
}
REDIS = """
redis-server --port 0 --unixsocket $PWD/redis.sock --save '' --daemonize no > log 2>&1 &
pid=$!
until redis-cli -s $PWD/redis.sock ping > /dev/null 2>&1; do kill -0 $pid || exit 9; done
redis-benchmark -s $PWD/redis.sock -q -n 2000 -c 10 -t set,get,lpush,hset > /dev/null 2>&1
redis-cli -s $PWD/redis.sock set key value
redis-cli -s $PWD/redis.sock get key
redis-cli -s $PWD/redis.sock dbsize
redis-cli -s $PWD/redis.sock shutdown nosave > /dev/null 2>&1
wait $pid
echo status $?
"""
NGINX = """
mkdir -p www; seq 1 2000 > www/index.html
cat > nginx.conf <<EOF
daemon off; master_process off; pid $PWD/nginx.pid; error_log $PWD/error.log;
events {} http { access_log off; client_body_temp_path $PWD; proxy_temp_path $PWD;
fastcgi_temp_path $PWD; uwsgi_temp_path $PWD; scgi_temp_path $PWD;
server { listen unix:$PWD/nginx.sock; root $PWD/www; } }
EOF
nginx -p $PWD -c $PWD/nginx.conf 2> log &
pid=$!
until curl -s --unix-socket nginx.sock http://x/ > page; do kill -0 $pid || exit 9; done
for i in 1 2 3 4 5; do curl -s --unix-socket nginx.sock http://x/ | md5sum; done
kill -QUIT $pid
wait $pid
echo status $?
"""


class Programs(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        with open(os.path.join(self.dir, "big.cc"), "w") as f:
            f.write(BIG_CXX)

    def compare(self, script):
        plain = seeptest.run(script, preload=False, cwd=self.dir)
        for mode in ("sampled", "exact"):
            options = f"mode={mode}:escape=bound:threads=on:out={self.dir}/out/p"
            os.makedirs(f"{self.dir}/out", exist_ok=True)
            r = seeptest.run(script, options=options, cwd=self.dir)
            self.assertEqual((r.returncode, r.stdout), (plain.returncode, plain.stdout),
                             f"{mode}: {r.stderr[-2000:]}")
            self.assertNotIn(b"seep: ", r.stderr, mode)
            shutil.rmtree(f"{self.dir}/out")
        return plain

    def test_git(self):
        env = {f"GIT_{w}_{k}": v for w in ("AUTHOR", "COMMITTER") for k, v in
               (("NAME", "a"), ("EMAIL", "a@example.com"), ("DATE", "2026-01-01T00:00:00Z"))}
        seeptest.run("git init -q repo && cd repo && for i in 1 2 3 4; do seq 1 $i$i$i > f$i;"
                     "git add .; git commit -qm $i; done", preload=False, cwd=self.dir,
                     env=env)
        self.assertEqual(self.compare(PROGRAMS["git"]).returncode, 0)

    def test_redis(self):
        self.assertIn(b"status 0", self.compare(REDIS).stdout)

    def test_nginx(self):
        self.assertIn(b"status 0", self.compare(NGINX).stdout)


def add(name, script):
    def test(self):
        self.assertEqual(self.compare(script).returncode, 0)
    setattr(Programs, f"test_{name}", test)


for program, text in PROGRAMS.items():
    if program != "git":
        add(program, text)

seeptest.main()
