// Open_vSwitch.other_config and Interface.other_config as the data plane's settings (ovs-vswitchd.conf.db(5)).

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { coresOfMask, parseAffinity } from '../../src/main/settings.ts';

test('pmd-cpu-mask', () => {
  assert.deepEqual(coresOfMask('0x6', 4), [1, 2]);
  assert.deepEqual(coresOfMask('F', 4), [0, 1, 2, 3]);
  assert.deepEqual(coresOfMask('ffff0000000000000000000000000001', 4), [0], 'cores of the machine');
  for (const mask of [undefined, '', '0', '0xf0', 'zz', '-1']) {
    assert.equal(coresOfMask(mask, 4), undefined, String(mask));
  }
});

test('pmd-rxq-affinity', () => {
  assert.deepEqual(Object.fromEntries(parseAffinity('0:3,1:7 2:0')), { 0: 3, 1: 7, 2: 0 });
  for (const text of [undefined, '', 'bad', '1', '-1:2', '0:x']) {
    assert.equal(parseAffinity(text).size, 0, String(text));
  }
});
