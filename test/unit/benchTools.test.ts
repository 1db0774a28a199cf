// What a scenario says about commands that a machine does not have.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { toolsMissing } from '../../bench/tools.ts';

test('commands that are nowhere in the path are named, with their packages, each once', () => {
  const directory = mkdtempSync(join(tmpdir(), 'xvio-tools-'));
  try {
    writeFileSync(join(directory, 'iperf3'), '');
    const said = toolsMissing(['ip', 'iperf3', 'ping', 'ss'], `:/nowhere:${directory}`);
    assert.equal(said, 'not here: ip, ping, ss; apt-get install iproute2 iputils-ping');
    for (const tool of ['ip', 'ping', 'ss']) writeFileSync(join(directory, tool), '');
    const path = `/nowhere:${directory}`;
    assert.equal(toolsMissing(['ip', 'iperf3', 'ping', 'ss'], path), undefined);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
