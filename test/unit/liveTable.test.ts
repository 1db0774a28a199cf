// Rates, drops and load as the live table shows them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DROP_COUNT, DROP_TX_RING_FULL } from '../../contract/drop.ts';
import { renderLiveTable, type Sample, si } from '../../src/cli/liveTable.ts';

const sample = (atMs: number, packets: number, dropped: number): Sample => {
  const drops = new Array(DROP_COUNT).fill(0);
  drops[DROP_TX_RING_FULL] = dropped;
  return {
    atMs,
    megaflows: 2,
    workers: [{ worker: 0, busyNs: atMs * 5e5, packets }],
    ports: [
      {
        bridge: 'br0',
        name: 'vm1',
        ofport: 1,
        type: 'dpdkvhostuserclient',
        linkUp: true,
        rxPackets: packets,
        rxBytes: packets * 64,
        txPackets: 0,
        txBytes: 0,
        drops,
      },
    ],
  };
};

test('numbers are shortened', () => {
  assert.equal(si(0), '0');
  assert.equal(si(999), '999');
  assert.equal(si(1234567), '1.23 M');
  assert.equal(si(45600), '45.6 k');
});

test('rates are differences over time, drops are totals by reason', () => {
  const text = renderLiveTable(sample(0, 1000, 0), sample(2000, 5000, 7)).join('\n');
  assert.match(text, /vm1 \(1\)\s+dpdkvhostuserclient\s+up\s+2.00 kpps\s+1.02 Mbit\/s/);
  assert.match(text, /vm1: tx_ring_full 7/);
  assert.match(text, /worker 0 50 % busy; 2 megaflows/);
});

test('without drops it says so', () => {
  assert.match(renderLiveTable(sample(0, 0, 0), sample(1000, 0, 0)).join('\n'), /no drops/);
});
