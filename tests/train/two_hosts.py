"""Two hosts on one machine: network namespaces that reach each other by a cable of their own, and nothing else.

No root is needed where users may make namespaces (`unshare --user`). Each host has the address HOSTS[n] on the interface
INTERFACES[n]; the first one's loopback is not the second one's.
"""

import functools
import shlex
import subprocess
from pathlib import Path

HOSTS = ("10.99.0.1", "10.99.0.2")
INTERFACES = ("cable0", "cable1")

# Host 0 is the namespace that the script begins in; host 1 is one inside, kept by a process that sleeps.
LAY_CABLE = f"""
set -e
unshare --net sleep 600 &
second=$!
trap 'kill $second 2>/dev/null' EXIT
on_second() {{ nsenter --net=/proc/$second/ns/net "$@"; }}
until [ "$(readlink /proc/$second/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
ip link add {INTERFACES[0]} type veth peer name {INTERFACES[1]} netns $second
ip link set lo up
ip addr add {HOSTS[0]}/24 dev {INTERFACES[0]}
ip link set {INTERFACES[0]} up
on_second ip link set lo up
on_second ip addr add {HOSTS[1]}/24 dev {INTERFACES[1]}
on_second ip link set {INTERFACES[1]} up
"""


def on_two_hosts(
    commands: tuple[list[str], list[str]], folder: Path, timeout_seconds: float
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of one command on each host, started together."""
    first, second = (f"{shlex.join(command)} >{host}.out 2>{host}.err" for host, command in enumerate(commands))
    script = f"""{LAY_CABLE}
on_second sh -c {shlex.quote(f"export GLOO_SOCKET_IFNAME={INTERFACES[1]}; {second}; echo $? >1.code")} &
there=$!
(export GLOO_SOCKET_IFNAME={INTERFACES[0]}; set +e; {first}; echo $? >0.code)
wait $there
"""
    isolated = ["unshare", "--user", "--map-root-user", "--net", "--kill-child", "--fork", "--pid", "--mount-proc"]
    subprocess.run([*isolated, "sh", "-c", script], cwd=folder, timeout=timeout_seconds, check=True)
    texts = [[(folder / f"{host}.{kind}").read_text() for kind in ("code", "out", "err")] for host in range(2)]
    return [(int(code), out, errors) for code, out, errors in texts]


@functools.cache
def why_not() -> str:
    """Why this machine cannot have two hosts; empty when it can."""
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--net", "--kill-child", "--fork", "--pid", "--mount-proc", "sh", "-c",
             f"{LAY_CABLE}\non_second ip addr show {INTERFACES[1]}"],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces here: {error}"
    return "" if done.returncode == 0 else f"no network namespaces here: {(done.stderr.splitlines() or ['?'])[-1]}"
