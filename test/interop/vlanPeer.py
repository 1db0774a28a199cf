"""A host in a VLAN, for kernels without VLAN devices: vlanPeer.py DEVICE VLAN MAC ADDRESS answers ARP requests and pings.

The kernel takes the tag out of what it receives and says it in the auxiliary data of the packet socket."""

import socket
import struct
import sys

SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
TP_STATUS_VLAN_VALID = 1 << 4

device, vlan = sys.argv[1], int(sys.argv[2])
mac = bytes.fromhex(sys.argv[3].replace(":", ""))
address = socket.inet_aton(sys.argv[4])


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def answer(frame):
    """The payload that answers this one, from the EtherType on; None if there is nothing to say."""
    kind, body = frame[12:14], frame[14:]
    if kind == b"\x08\x06" and body[6:8] == b"\x00\x01" and body[24:28] == address:
        return kind + body[:6] + b"\x00\x02" + mac + address + body[8:18]
    if kind == b"\x08\x00" and body[9] == 1 and body[16:20] == address and body[20] == 8:
        length = struct.unpack("!H", body[2:4])[0]
        icmp = b"\x00\x00\x00\x00" + body[24:length]
        icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
        return kind + body[:12] + address + body[12:16] + icmp
    return None


wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((device, 0))
wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
print("ready", flush=True)
while True:
    frame, ancillary, _, sender = wire.recvmsg(65536, 64)
    if sender[2] == PACKET_OUTGOING:
        continue
    tag = None
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data[:20])
            tag = tci & 0xFFF if status & TP_STATUS_VLAN_VALID else None
    reply = answer(frame) if tag == vlan else None
    if reply is not None:
        wire.send(frame[6:12] + mac + struct.pack("!HH", 0x8100, vlan) + reply)
