"""A client of Kubernetes' CRI (runtime.v1), for what engines.rs asks of containerd: pods and containers from beginning to end.

usage: cri.py SOCKET IMAGE CGROUP_PARENT LOG_DIRECTORY

Debian has gRPC, and no crictl. The few messages are written by hand: their fields by number, as api.proto of k8s.io/cri-api has them.
"""

import sys
import time

import grpc

socket, image, cgroup_parent, logs = sys.argv[1:5]
NODE = 2  # NamespaceMode: the host's


def varint(n):
    out = bytearray()
    while True:
        n, low = n >> 7, n & 127
        out.append(low | (128 if n else 0))
        if not n:
            return bytes(out)


def message(fields):
    """Field number to value: an integer, a string, a message (a dictionary), or a list of them."""
    out = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                out += varint(number << 3) + varint(item)
            else:
                item = message(item) if isinstance(item, dict) else item.encode()
                out += varint(number << 3 | 2) + varint(len(item)) + item
    return out


def parse(data):
    """Field number to the list of its values: integers and bytes."""
    at, fields = 0, {}

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(data):
        key = number()
        if key & 7 == 0:
            value = number()
        elif key & 7 == 2:
            length = number()
            value = data[at : at + length]
            at += length
        else:
            sys.exit(f"a field of type {key & 7}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


channel = grpc.insecure_channel("unix:" + socket)


def call(method, fields):
    rpc = channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
    try:
        return parse(rpc(message(fields), timeout=90, wait_for_ready=True))
    except grpc.RpcError as error:
        sys.exit(f"{method}: {error.code()}: {error.details()}")


def same(name, found, wanted):
    if found != wanted:
        sys.exit(f"{name}: {found!r}, not {wanted!r}")


def sandbox(name, network):
    options = {1: network}
    linux = {1: cgroup_parent, 2: {1: options}}
    # As kubelet does: a pod on the host's network has the host's name.
    hostname = "" if network == NODE else name
    return {1: {1: name, 2: name + "-uid", 3: "default"}, 2: hostname, 3: logs, 8: linux}


def container(pod, config, name, command, tty=0):
    security = {3: {1: config[8][2][1][1]}}  # LinuxContainerSecurityContext.namespace_options
    linux = {1: {4: 64 << 20, 5: 0}, 2: security}
    own = {1: {1: name}, 2: {1: image}, 3: command, 11: name + ".log", 14: tty, 15: linux}
    return call("CreateContainer", {1: pod, 2: own, 3: config})[1][0].decode()


def status(id):
    fields = parse(call("ContainerStatus", {1: id})[1][0])
    return fields.get(3, [0])[0], fields.get(7, [0])[0]


def ends(id):
    deadline = time.monotonic() + 60
    while status(id)[0] != 2:
        if time.monotonic() > deadline:
            sys.exit(f"{id} does not end")
        time.sleep(0.05)
    return status(id)[1]


def execute(id, *command):
    said = call("ExecSync", {1: id, 2: list(command), 3: 60})
    return said.get(3, [0])[0], said.get(1, [b""])[0].decode(), said.get(2, [b""])[0].decode()


def log(name):
    with open(f"{logs}/{name}.log") as file:
        return file.read()


def lives(name, network):
    config = sandbox(name, network)
    pod = call("RunPodSandbox", {1: config})[1][0].decode()

    web = container(pod, config, "web", ["sleep", "1000"])
    same("state", status(web), (0, 0))
    call("StartContainer", {1: web})
    same("state", status(web), (1, 0))
    same("exec", execute(web, "echo", "in"), (0, "in\n", ""))
    same("exec", execute(web, "sh", "-c", "echo out; echo err >&2; exit 3"), (3, "out\n", "err\n"))
    limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    same("limit", execute(web, "sh", "-c", f"cat {limit} || cat /sys/fs/cgroup/memory.max")[1], f"{64 << 20}\n")
    links = execute(web, "sh", "-c", "cd /sys/class/net; echo *")[1].split()
    same("the pod's own network", links == ["lo"], network != NODE)
    call("UpdateContainerResources", {1: web, 2: {4: 48 << 20}})
    same("limit", execute(web, "sh", "-c", f"cat {limit} || cat /sys/fs/cgroup/memory.max")[1], f"{48 << 20}\n")
    same("statistics", 3 in parse(call("ContainerStats", {1: web})[1][0]), True)

    tty = container(pod, config, "tty", ["sh", "-c", "tty; exit 7"], tty=1)
    call("StartContainer", {1: tty})
    same("exit code", ends(tty), 7)
    same("a terminal", "/dev/pts/" in log("tty") or "/dev/console" in log("tty"), True)
    call("RemoveContainer", {1: tty})

    call("StopContainer", {1: web, 2: 1})
    same("stopped", (status(web)[0], status(web)[1] in (137, 143)), (2, True))
    call("RemoveContainer", {1: web})
    same("containers", call("ListContainers", {}), {})
    call("StopPodSandbox", {1: pod})
    call("RemovePodSandbox", {1: pod})
    same("pods", call("ListPodSandbox", {}), {})


lives("host", NODE)
lives("own", 0)
