"""What drgn needs to the same answer, for attach.ts: each container's cgroup and the CPU time that it has used.

    drgn-containers.py CORE VMLINUX

QEMU's dump has no VMCOREINFO unless the guest has given it one: it is looked for in the core beforehand, which is not timed.
"""

import json
import mmap
import re
import sys
import time

import drgn
from drgn import container_of
from drgn.helpers.linux.cgroup import cgroup_path, css_for_each_descendant_pre
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr

core, vmlinux = sys.argv[1:]

with open(core, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
    found = re.search(rb"OSRELEASE=\d[\x20-\x7e\n]+", content)
    vmcoreinfo = found.group()


def used(stat):
    return stat.cputime.sum_exec_runtime.value_()


def usage(top):
    """With what has not yet been flushed, its own and that of the cgroups in it: what reading cpu.stat would say."""
    total = used(top.bstat)
    for css in css_for_each_descendant_pre(top.self.address_of_()):
        cgroup = container_of(css, "struct cgroup", "self")
        if cgroup != top.address_of_():
            total += used(cgroup.bstat) - used(cgroup.last_bstat)
        for cpu in for_each_possible_cpu(cgroup.prog_):
            here = per_cpu_ptr(cgroup.rstat_cpu, cpu)
            total += used(here.bstat) - used(here.last_bstat)
    return total


start = time.monotonic()
prog = drgn.Program(vmcoreinfo=vmcoreinfo)
prog.set_core_dump(core)
prog.load_debug_info([vmlinux])
root = prog["cgrp_dfl_root"].cgrp
attached = time.monotonic()
containers = {}
for css in css_for_each_descendant_pre(root.self.address_of_()):
    cgroup = container_of(css, "struct cgroup", "self")
    path = cgroup_path(cgroup).decode()
    if re.search(r"/docker/[0-9a-f]{64}$", path):
        containers[path] = str(usage(cgroup[0]))
end = time.monotonic()
print(
    json.dumps(
        {
            "version": drgn.__version__,
            "attachMs": (attached - start) * 1000,
            "walkMs": (end - attached) * 1000,
            "cpuNanoseconds": containers,
        }
    )
)
