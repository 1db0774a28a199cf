// BFD sessions against each other, without sockets: two state machines, a wire that may lose messages, a clock by hand.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { BfdSession } from '../../src/protocol/bfd.ts';
import { bfdConfigFrom } from '../../src/protocol/bfdConfig.ts';
import { BFD_LENGTH, bfdFrame, decodeBfd, encodeBfd } from '../../src/protocol/bfdMessage.ts';

const config = (column: Record<string, string>) => bfdConfigFrom({ enable: 'true', ...column })!;

function session(name: string, discriminator: number, column: Record<string, string> = {}) {
  let rxPackets = 0;
  const log: string[] = [];
  const bfd = new BfdSession({
    name,
    discriminator,
    random: () => 0.5,
    rxPackets: () => rxPackets,
    log: (_, text) => void log.push(text),
  });
  bfd.step({ type: 'configure', config: config(column) }, 1000);
  return {
    bfd,
    log,
    receivePackets: (n: number): void => {
      rxPackets += n;
    },
  };
}

type Side = ReturnType<typeof session>;

/** Lets time pass in steps of 10 ms; `wire` false loses what is sent. */
function pass(a: Side, b: Side, fromMs: number, toMs: number, wire = true): void {
  const carry = (from: Side, to: Side, nowMs: number): void => {
    if (from.bfd.shouldSend(nowMs)) {
      const payload = from.bfd.step({ type: 'transmit' }, nowMs)!;
      if (wire) to.bfd.step({ type: 'message', payload, ttl: 255 }, nowMs);
    }
    from.bfd.step({ type: 'tick' }, nowMs);
  };
  for (let nowMs = fromMs; nowMs < toMs; nowMs += 10) {
    carry(a, b, nowMs);
    carry(b, a, nowMs);
  }
}

test('two sessions come up, negotiate their intervals, and go down in silence', () => {
  const a = session('a', 1, { min_tx: '100', min_rx: '100' });
  const b = session('b', 2, { min_tx: '300', min_rx: '200' });
  pass(a, b, 1000, 5000);
  const up = { forwarding: 'true', state: 'up', remote_state: 'up', flap_count: '1' };
  for (const { bfd } of [a, b]) {
    const { diagnostic, remote_diagnostic, ...status } = bfd.status(5000);
    assert.deepEqual(status, up);
    assert.equal(diagnostic, 'No Diagnostic');
    assert.equal(remote_diagnostic, 'No Diagnostic');
  }
  assert.match(a.bfd.details(5000), /TX Interval: Approx 200ms\n {2}RX Interval: Approx 300ms/);
  assert.match(b.bfd.details(5000), /TX Interval: Approx 300ms\n {2}RX Interval: Approx 200ms/);
  // Three intervals of 300 ms without a message.
  pass(a, b, 5000, 5600, false);
  assert.equal(a.bfd.status(5600).state, 'up');
  pass(a, b, 5600, 6300, false);
  assert.equal(a.bfd.status(6300).state, 'down');
  assert.equal(a.bfd.status(6300).diagnostic, 'Control Detection Time Expired');
  assert.equal(a.bfd.status(6300).flap_count, '2');
  pass(a, b, 6300, 10_000);
  assert.equal(a.bfd.status(10_000).state, 'up');
  assert.equal(a.bfd.status(10_000).flap_count, '3');
});

test('a new interval is polled for, and counts once the peer has answered', () => {
  const a = session('a', 1, { min_tx: '1000', min_rx: '1000' });
  const b = session('b', 2, { min_tx: '1000', min_rx: '1000' });
  pass(a, b, 1000, 8000);
  b.bfd.step({ type: 'configure', config: config({ min_tx: '1000', min_rx: '5000' }) }, 8000);
  pass(a, b, 8000, 10_000);
  assert.match(a.bfd.details(10_000), /TX Interval: Approx 5000ms/);
  assert.ok(b.log.some((text) => text.includes('Poll sequence terminated')));
});

test('cpath_down tells the peer, whose port then does not forward', () => {
  const a = session('a', 1, { min_tx: '100', min_rx: '100' });
  const b = session('b', 2, { min_tx: '100', min_rx: '100', cpath_down: 'true' });
  pass(a, b, 1000, 5000);
  const status = a.bfd.status(5000);
  assert.equal(status.state, 'up');
  assert.equal(status.remote_diagnostic, 'Concatenated Path Down');
  assert.equal(status.forwarding, 'false');
  assert.equal(b.bfd.status(5000).forwarding, 'true');
});

test('forwarding_if_rx: traffic keeps the port in use while the peer is silent', () => {
  const column = { min_tx: '100', min_rx: '100', forwarding_if_rx: 'true' };
  const a = session('a', 1, column);
  const b = session('b', 2, { min_tx: '100', min_rx: '100' });
  pass(a, b, 1000, 5000);
  for (let nowMs = 5000; nowMs < 9000; nowMs += 500) {
    a.bfd.step({ type: 'traffic' }, nowMs);
    pass(a, b, nowMs, nowMs + 500, false);
  }
  assert.equal(a.bfd.status(9000).state, 'down');
  assert.equal(a.bfd.status(9000).forwarding, 'true');
  assert.equal(a.bfd.status(9000).flap_count, '1');
  pass(a, b, 9000, 12_000, false);
  assert.equal(a.bfd.status(12_000).forwarding, 'false');
});

test('an idle session decays, and traffic ends that', () => {
  const a = session('a', 1, { min_tx: '300', min_rx: '300', decay_min_rx: '3000' });
  const b = session('b', 2, { min_tx: '300', min_rx: '300' });
  pass(a, b, 1000, 12_000);
  assert.match(a.bfd.details(12_000), /Local Minimum RX Interval: 3000ms/);
  for (let nowMs = 12_000; nowMs < 24_000; nowMs += 100) {
    a.receivePackets(10);
    pass(a, b, nowMs, nowMs + 100);
  }
  assert.match(a.bfd.details(24_000), /Local Minimum RX Interval: 300ms/);
});

test('the operator may override what the session says', () => {
  const a = session('a', 1);
  a.bfd.step({ type: 'override', forwarding: true }, 1000);
  assert.equal(a.bfd.forwarding(1000), true);
  a.bfd.step({ type: 'override', forwarding: undefined }, 1000);
  assert.equal(a.bfd.forwarding(1000), false);
});

test('messages that RFC 5880 discards change nothing', () => {
  const good = {
    version: 1,
    diag: 0,
    state: 1 as const,
    flags: 0,
    mult: 3,
    length: BFD_LENGTH,
    myDisc: 9,
    yourDisc: 0,
    minTxUs: 100_000,
    minRxUs: 100_000,
    minRxEchoUs: 0,
  };
  const cases: [Partial<typeof good> & { state?: number }, ttl: number][] = [
    [{}, 254],
    [{ version: 0 }, 255],
    [{ flags: 4 }, 255],
    [{ length: 23 }, 255],
    [{ mult: 0 }, 255],
    [{ flags: 1 }, 255],
    [{ myDisc: 0 }, 255],
    [{ yourDisc: 7 }, 255],
  ];
  for (const [change, ttl] of cases) {
    const { bfd } = session('a', 1);
    const payload = encodeBfd({ ...good, ...change });
    bfd.step({ type: 'message', payload, ttl }, 1000);
    assert.equal(bfd.status(1000).state, 'down', JSON.stringify(change));
  }
  const { bfd } = session('a', 1);
  bfd.step({ type: 'message', payload: encodeBfd({ ...good, state: 3 as never }), ttl: 255 }, 1000);
  assert.equal(bfd.status(1000).state, 'down');
  bfd.step({ type: 'message', payload: encodeBfd(good), ttl: 255 }, 1000);
  assert.equal(bfd.status(1000).state, 'init');
});

test('no bytes harm a session', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 30 }), { maxLength: 20 }), (messages) => {
      const { bfd } = session('a', 1);
      messages.forEach((payload, i) => {
        bfd.step({ type: 'message', payload, ttl: 255 }, 1000 + i);
        bfd.step({ type: 'tick' }, 1000 + i);
        const sent = decodeBfd(bfd.step({ type: 'transmit' }, 1000 + i)!)!;
        assert.ok((sent.flags & 0x30) !== 0x30, 'never both poll and final');
        assert.ok(Number.isFinite(bfd.wakeMs()));
      });
    }),
  );
});

test('the column: defaults, limits, nonsense', () => {
  assert.equal(bfdConfigFrom({}), undefined);
  assert.equal(bfdConfigFrom({ enable: 'yes' }), undefined);
  const odd = config({
    mult: '300',
    min_tx: '-5',
    min_rx: 'x',
    bfd_src_ip: '1.2.3',
    decay_min_rx: '7',
  });
  assert.equal(odd.mult, 3);
  assert.equal(odd.minTxMs, 1);
  assert.equal(odd.minRxMs, 1000);
  assert.equal(odd.srcIp, undefined);
  assert.equal(odd.decayMinRxMs, 7);
});

test('a frame: TTL 255, port 3784, IPv4 checksum', () => {
  const frame = bfdFrame(
    {
      ethSrc: Uint8Array.of(2, 0, 0, 0, 0, 1),
      ethDst: Uint8Array.of(0, 0x23, 0x20, 0, 0, 1),
      ipSrc: Uint8Array.of(169, 254, 1, 1),
      ipDst: Uint8Array.of(169, 254, 1, 0),
      udpSrc: 49152,
    },
    new Uint8Array(BFD_LENGTH),
  );
  assert.equal(frame.length, 66);
  const view = new DataView(frame.buffer);
  let sum = 0;
  for (let at = 14; at < 34; at += 2) sum += view.getUint16(at);
  assert.equal((sum & 0xffff) + (sum >>> 16), 0xffff);
  assert.equal(frame[22], 255);
  assert.equal(view.getUint16(36), 3784);
});
