"""A local network of namespaces whose lines are as bad as a test asks for.

Makes one network namespace for each household, with one Ethernet device in it, and is the switch between them: in user
space, because not every kernel can delay and drop packets by itself (`sch_netem`). Each line has a delay in each
direction, a share of frames that are lost, and a rate; the loss is drawn from a seed, so a run can be repeated. Nothing
outside of the namespaces is reached: they have no way to the internet.

Everything is undone when standard input ends, so also when whoever started this is killed: processes in the namespaces
are killed, the namespaces are deleted, and the devices go with them.

Argument, in JSON: {"households": ["a", "b"], "chain": {"household": "chain", "port": 8545}?, "seed": 1}
  With `chain`, each household reaches, at the same port of its own loopback address, what listens there in the
  namespace of `chain`; the connection goes over the lines.
Prints {"ready": {"a": {"namespace": N, "address": IP}, ...}}, then one line for each line of standard input:
  {"line": "a", "delay_ms": 20, "loss": 0.01, "bits_per_s": 10000000}   what is not said stays as it is
  {"expose": "b", "port": 4040}     -> {"exposed": P}: port P of this machine's loopback leads to that port of b's own
  {"sides": [["a"], ["b", "c"]]}    nothing passes from one side to another; [] heals
  {"walls": [["a", "b"]]}           nothing passes between these two, though both reach the others
  {"counts": true}                  -> how many frames went over each line, and how many were dropped
"""

import asyncio
import collections
import ctypes
import fcntl
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000
# After so long without an acknowledgement a forwarded connection is given up, so that its program makes a new one and
# does not wait for TCP's own pauses, which a partition makes long. In milliseconds.
UNACKNOWLEDGED_MS_MAX = 2_000
FRAME_BYTES_MAX = 1514
# What may wait on a line before frames are dropped, in bytes: a tenth of a second at 10 Mbit/s.
QUEUE_BYTES_MAX = 128 << 10
# Frames that are taken from one line before the others get their turn.
FRAMES_AT_ONCE = 64

libc = ctypes.CDLL(None, use_errno=True)
HOME = os.open("/proc/self/ns/net", os.O_RDONLY)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def enter(descriptor):
    """Moves this thread into a network namespace."""
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Household:
    """A namespace, and the switch's end of its line."""

    def __init__(self, name, number):
        self.name = name
        self.namespace = f"hearth-{os.getpid()}-{name}"
        self.address = f"10.77.0.{number}"
        self.mac = bytes([2, 0, 0, 0, 0, number])
        self.delay_s, self.loss, self.bits_per_s = 0.0, 0.0, None
        self.side = 0
        self.free_at = 0.0
        self.counts = collections.Counter()
        ip("netns", "add", self.namespace)
        self.descriptor = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        self.tap = self.inside(self.open_tap)
        here = ["-n", self.namespace]
        ip(*here, "link", "set", "lo", "up")
        ip(*here, "link", "set", "eth0", "address", ":".join(f"{byte:02x}" for byte in self.mac))
        ip(*here, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip(*here, "link", "set", "eth0", "up")
        ip(*here, "route", "add", "224.0.0.0/4", "dev", "eth0")

    def inside(self, what):
        """Does something in the namespace; what it opens stays there."""
        enter(self.descriptor)
        try:
            return what()
        finally:
            enter(HOME)

    @staticmethod
    def open_tap():
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
        return tap

    def knows(self, other):
        """Spares this household the question who has an address: a lost answer would cost a second."""
        mac = ":".join(f"{byte:02x}" for byte in other.mac)
        ip("-n", self.namespace, "neighbour", "add", other.address, "lladdr", mac, "dev", "eth0", "nud", "permanent")


def remove(namespace):
    """Ends what runs in a namespace, and deletes it."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for pid in found.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


def keeper():
    """Forks a process that outlives this one, even if it is killed, and then removes the namespaces whose names it was
    told. Returns the pipe by which it is told."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(reading)
        return os.fdopen(writing, "w")
    os.setsid()
    os.close(writing)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    with os.fdopen(reading) as names:
        for namespace in names.read().split():
            remove(namespace)
    os._exit(0)


class Switch:
    def __init__(self, households, seed):
        self.households = households
        self.chance = random.Random(seed)
        self.walls = set()
        self.loop = asyncio.get_running_loop()
        for household in households.values():
            self.loop.add_reader(household.tap, self.arrived, household)

    def arrived(self, sender):
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = os.read(sender.tap, FRAME_BYTES_MAX + 4)
            except BlockingIOError:
                return
            self.forward(sender, frame)

    def forward(self, sender, frame):
        to_all = frame[0] & 1
        receivers = [
            household
            for household in self.households.values()
            if household is not sender
            and household.side == sender.side
            and frozenset((household.name, sender.name)) not in self.walls
            and (to_all or household.mac == frame[:6])
        ]
        now = self.loop.time()
        begins = max(now, sender.free_at)
        waiting_bytes = (begins - now) * (sender.bits_per_s or 0) / 8
        sender.counts["frames"] += 1
        if not receivers or self.chance.random() < sender.loss or waiting_bytes > QUEUE_BYTES_MAX:
            sender.counts["dropped"] += 1
            return
        if sender.bits_per_s:
            sender.free_at = begins + len(frame) * 8 / sender.bits_per_s
            begins = sender.free_at
        due = begins + sender.delay_s
        for receiver in receivers:
            if due <= now:
                self.deliver(receiver, frame)
            else:
                self.loop.call_at(due, self.deliver, receiver, frame)

    @staticmethod
    def deliver(receiver, frame):
        try:
            os.write(receiver.tap, frame)
        except (BlockingIOError, OSError):
            receiver.counts["dropped"] += 1


def impatient(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)


async def pump(reader, writer):
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    except (ConnectionError, TimeoutError, OSError):
        pass
    finally:
        writer.close()


def forwarder(target, address):
    """Takes connections and leads each to `address`, as seen from the namespace of `target`."""

    async def taken(reader, writer):
        def open_socket():
            made = socket.socket()
            made.setblocking(False)
            return made

        towards = target.inside(open_socket)
        impatient(towards)
        impatient(writer.get_extra_info("socket"))
        try:
            await asyncio.get_running_loop().sock_connect(towards, address)
        except OSError:
            towards.close()
            writer.close()
            return
        back, forth = await asyncio.open_connection(sock=towards)
        await asyncio.gather(pump(reader, forth), pump(back, writer))

    return taken


def listen(household, address):
    def bind():
        made = socket.create_server(address)
        made.setblocking(False)
        return made

    return household.inside(bind) if household else bind()


async def forward_chain(households, chain):
    seller, port = households[chain["household"]], chain["port"]
    local = ("127.0.0.1", port)
    over_the_line = (seller.address, port)
    for household in households.values():
        if household is seller:
            await asyncio.start_server(forwarder(seller, local), sock=listen(seller, over_the_line))
        else:
            await asyncio.start_server(forwarder(household, over_the_line), sock=listen(household, local))


async def obey(switch, command):
    households = switch.households
    if "line" in command:
        household = households[command["line"]]
        household.delay_s = command.get("delay_ms", household.delay_s * 1000) / 1000
        household.loss = command.get("loss", household.loss)
        household.bits_per_s = command.get("bits_per_s", household.bits_per_s)
        return {"set": command["line"]}
    if "expose" in command:
        sock = listen(None, ("127.0.0.1", 0))
        inside = ("127.0.0.1", command["port"])
        await asyncio.start_server(forwarder(households[command["expose"]], inside), sock=sock)
        return {"exposed": sock.getsockname()[1]}
    if "sides" in command:
        for household in households.values():
            household.side = 0
        for number, names in enumerate(command["sides"]):
            for name in names:
                households[name].side = number
        return {"sides": command["sides"]}
    if "walls" in command:
        switch.walls = {frozenset(pair) for pair in command["walls"]}
        return {"walls": command["walls"]}
    return {"counts": {name: dict(household.counts) for name, household in households.items()}}


def say(value):
    print(json.dumps(value), flush=True)


async def run(config, told):
    households = {}
    for number, name in enumerate(config["households"], 1):
        # Before it is made: a name without a namespace does no harm.
        print(f"hearth-{os.getpid()}-{name}", file=told, flush=True)
        households[name] = Household(name, number)
    for household in households.values():
        for other in households.values():
            if other is not household:
                household.knows(other)
    switch = Switch(households, config["seed"])
    if "chain" in config:
        await forward_chain(households, config["chain"])
    say({"ready": {n: {"namespace": h.namespace, "address": h.address} for n, h in households.items()}})
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    stop = asyncio.ensure_future(stopped.wait())
    while True:
        read = asyncio.ensure_future(lines.readline())
        await asyncio.wait([read, stop], return_when=asyncio.FIRST_COMPLETED)
        if stop.done() or not read.result():
            return
        say(await obey(switch, json.loads(read.result())))


def main():
    told = keeper()
    asyncio.run(run(json.loads(sys.argv[1]), told))


main()
