"""Collectors of NetFlow v5 and sFlow v5, written from what the formats say: each record becomes one line of text.

With Open vSwitch's own Python library they serve its unit test suite as its programs test-netflow and test-sflow, which
Debian does not have (ovsUnitSuite.ts); the words of the lines are those that the suite looks for. Alone they are collectors
for our own tests: flowCollector.py netflow|sflow ADDRESS PORT FILE.
"""

import socket
import struct
import sys

TCP_FLAGS = ['fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ece', 'cwr']


def address(data):
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def mac(data):
    return ':'.join('%02x' % byte for byte in data)


# ---- NetFlow

def netflow(data):
    version, count, uptime, seconds, nanos, seq, kind, engine, interval = struct.unpack_from('>HHIIIIBBH', data)
    yield 'header: v%d, uptime %d, now %d.%09d, seq %d, engine %d,%d' % (version, uptime, seconds, nanos, seq, kind, engine)
    if len(data) != 24 + 48 * count or interval != 0:
        yield 'wrong length %d or interval %d' % (len(data), interval)
    for at in range(24, len(data), 48):
        (src, dst, hop, inp, out, pkts, octets, first, last, sport, dport, pad, flags, proto, tos, as1, as2, m1, m2,
         pad2) = struct.unpack_from('>4s4s4sHHIIIIHHBBBBHHBBH', data, at)
        line = 'seq %d: %s > %s, if %d > %d, %d pkts, %d bytes' % (seq, address(src), address(dst), inp, out, pkts, octets)
        name = {6: 'TCP', 17: 'UDP', 132: 'SCTP'}.get(proto)
        if name:
            line += ', %s %d > %d' % (name, sport, dport)
            if name == 'TCP' and flags:
                line += ' ' + '|'.join(TCP_FLAGS[i] for i in range(8) if flags >> i & 1)
        elif proto == 1:
            line += ', ICMP %d:%d' % (dport >> 8, dport & 0xff)
        else:
            line += ', proto %d' % proto
        if tos:
            line += ', TOS %x' % tos
        line += ', time %d...%d' % (first, last)
        if any([pad, as1, as2, m1, m2, pad2]) or hop != bytes(4):
            line += ', not zero'
        yield line


# ---- sFlow

class Xdr:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise ValueError('short by %d' % (self.at + n - len(self.data)))
        self.at += n
        return self.data[self.at - n:self.at]

    def u32(self):
        return struct.unpack('>I', self.take(4))[0]

    def u64(self):
        return struct.unpack('>Q', self.take(8))[0]

    def opaque(self):
        n = self.u32()
        value = self.take(n)
        self.take(-n & 3)
        return value

    def element(self):
        tag = self.u32()
        return tag, Xdr(self.take(self.u32()))

    def numbers(self, names):
        """'name' is 32 bits, 'name*' 64."""
        return ''.join(' %s=%d' % (name.rstrip('*'), self.u64() if name.endswith('*') else self.u32()) for name in names)

    def end(self):
        if self.at != len(self.data):
            raise ValueError('%d bytes left' % (len(self.data) - self.at))


INTERFACE = ('ifindex type ifspeed* direction status in_octets* in_unicasts in_multicasts in_broadcasts in_discards in_errors'
             ' in_unknownprotos out_octets* out_unicasts out_multicasts out_broadcasts out_discards out_errors promiscuous')
ETHERNET = ('AlignmentErrors FCSErrors SingleCollisionFrames MultipleCollisionFrames SQETestErrors DeferredTransmissions'
            ' LateCollisions ExcessiveCollisions InternalMacTransmitErrors CarrierSenseErrors FrameTooLongs'
            ' InternalMacReceiveErrors SymbolErrors')
LACP = 'LACPDUsRx markerPDUsRx markerRespPDUsRx unknownRx illegalRx LACPDUsTx markerPDUsTx markerRespPDUsTx'
OUTER = 'length protocol src dst src_port dst_port tcp_flags tos'


def outer(x, prefix):
    text = ''
    for name in OUTER.split():
        value = address(x.take(4)) if name in ('src', 'dst') else x.u32()
        text += ' %s_%s=%s' % (prefix, name, value)
    return text


def labels(x):
    x.take(16 if x.u32() == 2 else 4)
    x.take(4 * x.u32())
    text = ''
    for i in range(x.u32()):
        entry = x.u32()
        text += ' mpls_label_%d=%d mpls_tc_%d=%d mpls_ttl_%d=%d mpls_bos_%d=%d' % (
            i, entry >> 12, i, entry >> 9 & 7, i, entry & 0xff, i, entry >> 8 & 1)
    return text


def header(x):
    text = x.numbers(['hdr_prot', 'pkt_len', 'stripped'])
    data = x.opaque()
    return text + ' hdr_len=%d hdr=%s' % (len(data), '-'.join('%02X' % byte for byte in data))


def flow_sample(x, ident):
    seq = x.u32()
    source = x.u32()
    rest = x.numbers(['meanSkip', 'samplePool', 'dropEvents'])
    for name in ('in', 'out'):
        value = x.u32()
        rest += ' %s_ifindex=%d %s_format=%d' % (name, value & 0x3fffffff, name, value >> 30)
    parts = {}
    for _ in range(x.u32()):
        tag, e = x.element()
        parts[tag] = {
            1: header,
            1001: lambda e: e.numbers(['in_vlan', 'in_priority', 'out_vlan', 'out_priority']),
            1006: labels,
            1023: lambda e: outer(e, 'tunnel4_out'),
            1024: lambda e: outer(e, 'tunnel4_in'),
            1029: lambda e: e.numbers(['tunnel_out_vni']),
            1030: lambda e: e.numbers(['tunnel_in_vni']),
        }[tag](e)
        e.end()
    text = 'HEADER%s fsSeqNo=%d' % (ident(source), seq)
    for tag in (1024, 1023, 1030, 1029, 1006, 1001):
        text += parts.get(tag, '')
    yield text + rest + parts[1]


def counters_sample(x, ident):
    seq = x.u32()
    source = x.u32()
    for _ in range(x.u32()):
        tag, e = x.element()
        if tag == 1:
            yield 'IFCOUNTERS%s csSeqNo=%d%s' % (ident(source), seq, e.numbers(INTERFACE.split()))
        elif tag == 2:
            yield 'ETHCOUNTERS' + e.numbers(['dot3Stats' + name for name in ETHERNET.split()])
        elif tag == 7:
            ids = []
            for name in ('sysID', 'partnerID'):
                ids.append(' %s=%s' % (name, mac(e.take(6))))
                e.take(2)
            text = ''.join(ids) + e.numbers(['aggID'])
            for name, value in zip(['actorAdmin', 'actorOper', 'partnerAdmin', 'partnerOper'], e.take(4)):
                text += ' %s=0x%x' % (name, value)
            yield 'LACPCOUNTERS' + text + e.numbers(LACP.split())
        elif tag == 1004:
            yield 'OPENFLOWPORT' + e.numbers(['datapath_id*', 'port_no'])
        elif tag == 1005:
            yield 'PORTNAME portName=' + e.opaque().decode()
        elif tag == 2203:
            yield 'RESOURCES' + e.numbers('user_time system_time mem_used* mem_max* fd_open fd_max conn_open conn_max'.split())
        elif tag == 2207:
            yield 'DATAPATH' + e.numbers('hit missed lost mask_hit flows masks'.split())
        else:
            raise ValueError('counters %d' % tag)
        e.end()


def sflow(data):
    x = Xdr(data)
    try:
        if x.u32() != 5:
            raise ValueError('version')
        agent = address(x.take(4 if x.u32() == 1 else 16))
        x.u32()
        datagram = x.u32()
        x.u32()

        def ident(source):
            name = '[%s]' % agent if ':' in agent else agent
            return ' dgramSeqNo=%d ds=%s>%d:%d' % (datagram, name, source >> 24, source & 0xffffff)

        for _ in range(x.u32()):
            tag, e = x.element()
            yield from {1: flow_sample, 2: counters_sample}[tag](e, ident)
            e.end()
        x.end()
    except (ValueError, KeyError) as error:
        yield '>>>>> ERROR %r' % error


DECODERS = {'netflow': netflow, 'sflow': sflow}


def listener(host, number):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((host, number))
    return s


def serve(name, target, args):
    """The suite's program: 'PORT:HOST', a daemon with a control socket."""
    import argparse

    import ovs.daemon
    import ovs.poller
    import ovs.unixctl.server
    import ovs.util
    import ovs.vlog
    ovs.util.PROGRAM_NAME = name
    parser = argparse.ArgumentParser()
    ovs.daemon.add_args(parser)
    ovs.vlog.add_args(parser)
    options = parser.parse_args(args)
    log = ovs.vlog.Vlog('collector')
    ovs.vlog.handle_args(options)
    ovs.daemon.handle_args(options)
    number, host = target.split(':', 1)
    sock = listener(host.strip('[]'), int(number))
    out = open('/dev/stdout', 'w', buffering=1)
    ovs.daemon.daemonize_start()
    error, server = ovs.unixctl.server.UnixctlServer.create(None)
    if error:
        sys.exit('no control socket')
    exiting = []

    def leave(conn, _args, _aux):
        exiting.append(True)
        conn.reply(None)

    ovs.unixctl.command_register('exit', '', 0, 0, leave, None)
    ovs.daemon.daemonize_complete()
    log.info('%s: listening on port %d' % (target, sock.getsockname()[1]))
    sock.setblocking(False)
    while True:
        server.run()
        try:
            while True:
                for line in DECODERS[name[5:]](sock.recv(65535)):
                    out.write(line + '\n')
        except BlockingIOError:
            pass
        if exiting:
            break
        poller = ovs.poller.Poller()
        poller.fd_wait(sock.fileno(), ovs.poller.POLLIN)
        server.wait(poller)
        poller.block()
    server.run()
    server.close()


if sys.argv[1].startswith('test-'):
    words = sys.argv[2:]
    positional = [word for word in words if not word.startswith('-')]
    serve(sys.argv[1], positional[-1], [word for word in words if word != positional[-1]])
else:
    decoder = DECODERS[sys.argv[1]]
    receiver = listener(sys.argv[2], int(sys.argv[3]))
    with open(sys.argv[4], 'a', buffering=1) as log:
        while True:
            for line in decoder(receiver.recv(65535)):
                log.write(line + '\n')
