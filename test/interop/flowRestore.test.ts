// A restart as ovs-ctl does it (ovs-ctl(8), "restart"): ovs-save writes a script, flow-restore-wait holds the new daemon
// back, the script puts groups and flows in, and then the switch forwards. Flows, groups and their order are as before.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import type { Guest } from '../../src/guest/guest.ts';
import { TestDriver } from '../../src/guest/testDriver.ts';
import { Sandbox } from './sandbox.ts';
import { numberedFrame, plugGuests } from './sandboxGuests.ts';

const SAVE = '/usr/share/openvswitch/scripts/ovs-save';
let box: Sandbox;
let guests: Guest[] = [];

const rows = (text: string): string[] =>
  text
    .split('\n')
    .filter((line) => line.includes('actions=') || line.includes('group_id'))
    .map((line) => line.trim())
    .sort();
const flows = () => rows(box.ofctl('-O', 'OpenFlow15', '--no-stats', 'dump-flows', 'br0'));
const groups = () => rows(box.ofctl('-O', 'OpenFlow15', 'dump-groups', 'br0'));

before(async () => {
  box = await Sandbox.start();
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev'],
    'fail_mode=secure',
    'protocols=[OpenFlow10,OpenFlow13,OpenFlow15]',
  );
  guests = await plugGuests(box, 'br0', ['a', 'b']);
});

after(async () => {
  for (const guest of guests) guest.close();
  await box?.stop();
});

describe('a restart with ovs-save and flow-restore-wait', () => {
  it('forwards nothing before the flows are back, and then as before', async () => {
    const [from, to] = guests.map((guest) => new TestDriver(guest));
    box.ofctl('-O', 'OpenFlow15', 'add-group', 'br0', 'group_id=5,type=all,bucket=output:b');
    for (const flow of [
      'priority=10,in_port=a,cookie=0x5,actions=group:5',
      'priority=9,ip,nw_dst=10.0.0.0/8,actions=ct(commit,zone=3),resubmit(,7)',
      'table=7,priority=1,importance=4,actions=load:7->NXM_NX_REG3[],output:a',
    ]) {
      box.ofctl('-O', 'OpenFlow15', 'add-flow', 'br0', flow);
    }
    from!.send(numberedFrame(1));
    assert.equal((await to!.expect(1)).length, 1);
    const [flowsBefore, groupsBefore] = [flows(), groups()];
    assert.ok(flowsBefore.length >= 3 && groupsBefore.length === 1);

    const script = box.path('restore.sh');
    writeFileSync(script, box.must('sh', SAVE, 'save-flows', 'br0'));
    await box.stopDaemon();
    box.vsctl('--no-wait', 'set', 'Open_vSwitch', '.', 'other_config:flow-restore-wait=true');
    await box.startDaemon();
    await Promise.all(guests.map((guest) => guest.connected(2)));
    await box.until(() => box.run('ovs-ofctl', 'show', 'br0').status === 0, 20_000, 'bridge');
    from!.send(numberedFrame(2));
    assert.equal((await to!.expect(1, 500)).length, 0, 'forwarded before the flows were back');
    box.must('sh', script);
    box.vsctl('--no-wait', 'remove', 'Open_vSwitch', '.', 'other_config', 'flow-restore-wait');
    assert.deepEqual(groups(), groupsBefore);
    assert.deepEqual(flows(), flowsBefore);
    let number = 3;
    await box.until(
      async () => {
        from!.send(numberedFrame(number++));
        return (await to!.expect(1, 200)).length > 0;
      },
      20_000,
      'frames after the restart',
    );
  });
});
