# SPDX-License-Identifier: Apache-2.0
"""Servers of Debian's packages as several tests start them: nginx on DIRECTORY/sock, and
postgres in DIRECTORY, which does not run as root."""
import glob
import os
import pwd
import subprocess
import seeptest

POSTGRES = (sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres")) or [""])[-1]
NGINX = """daemon off; PROCESSES; pid DIR/pid; error_log DIR/log; user root;
events { worker_connections 64; }
http { access_log off; client_body_temp_path DIR/1; proxy_temp_path DIR/2;
fastcgi_temp_path DIR/3; uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;
server { listen unix:DIR/sock; ANSWER } }
"""


def nginx(directory, processes="worker_processes 1", answer="return 204;"):
    """The command, with its configuration written."""
    text = NGINX.replace("PROCESSES", processes).replace("ANSWER", answer)
    with open(directory + "/conf", "w") as f:
        f.write(text.replace("DIR", directory))
    return ["nginx", "-c", directory + "/conf"]


def not_root(test):
    """What Popen needs for a program that refuses root; the test's directory is that
    user's."""
    if os.geteuid() != 0:
        return {}
    if not seeptest.may_become():
        test.skipTest("root may not be somebody else")
    who = pwd.getpwnam("nobody")
    os.chown(test.dir, who.pw_uid, who.pw_gid)
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def postgres_tool(name):
    return os.path.join(os.path.dirname(POSTGRES), name)


def postgres(test, user):
    """The command, with a database in the test's directory."""
    data = test.dir + "/data"
    if not os.path.exists(data):
        subprocess.run([postgres_tool("initdb"), "-D", data, "--no-sync", "-A", "trust", "-U",
                        "me", "--no-locale"], cwd=test.dir, check=True, capture_output=True,
                       env=seeptest.clean_env(HOME=test.dir), **user)
    return [POSTGRES, "-D", data, "-k", test.dir, "-h", "", "-F"]
