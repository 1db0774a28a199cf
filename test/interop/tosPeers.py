"""Two hosts in one process: tosPeers.py NAMESPACE-A NAMESPACE-B ADDRESS-B. For each line on standard input a datagram goes
from A to B; what is printed is the TOS with which it arrives, or "lost"."""

import ctypes
import os
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)


def udp_socket(namespace):
    fd = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    assert libc.setns(fd, 0) == 0, os.strerror(ctypes.get_errno())
    os.close(fd)
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


sender, receiver = udp_socket(sys.argv[1]), udp_socket(sys.argv[2])
receiver.bind((sys.argv[3], 7777))
receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
receiver.settimeout(5)
print("ready", flush=True)
for line in sys.stdin:
    sender.sendto(line.encode(), (sys.argv[3], 7777))
    try:
        _, ancillary, _, _ = receiver.recvmsg(100, 100)
        print(ancillary[0][2][0], flush=True)
    except TimeoutError:
        print("lost", flush=True)
