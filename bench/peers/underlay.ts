// Scenario `acl-vxlan`: port 0 is a guest on br0, behind 1 000 rules; port 1 is the wire under a VXLAN tunnel, a port of
// br-phy, whose own address is the switch's end of the tunnel.

import type { Sandbox } from '../../test/interop/sandbox.ts';
import type { Wire } from '../generator/wire.ts';

export const UNDERLAY_BRIDGE = 'br-phy';
export const UNDERLAY_PORT = 1;
/** OpenFlow port of the tunnel on br0. The flows of the generator's guest 1 come out of it. */
export const TUNNEL_OFPORT = 2;

const NETWORK = '10.99.0';
const WIRE_MAC = '52:54:00:00:02:01';
const VNI = 100;

/** Before the ports exist. */
export function addUnderlay(box: Sandbox): void {
  const bridge = ['add-br', UNDERLAY_BRIDGE, '--', 'set', 'bridge', UNDERLAY_BRIDGE];
  box.vsctl(...bridge, 'datapath_type=netdev', 'fail_mode=secure');
  box.must('ip', 'addr', 'add', `${NETWORK}.1/24`, 'dev', UNDERLAY_BRIDGE);
  box.must('ip', 'link', 'set', UNDERLAY_BRIDGE, 'up');
}

/** After them. Returns what the guest at the wire has to know. */
export async function addTunnel(box: Sandbox): Promise<Wire> {
  box.vsctl(
    ...['add-port', 'br0', 'vxlan0', '--', 'set', 'interface', 'vxlan0', 'type=vxlan'],
    ...[`options:remote_ip=${NETWORK}.2`, `options:key=${VNI}`, `ofport_request=${TUNNEL_OFPORT}`],
  );
  const wire = box.vsctl('get', 'interface', `vm${UNDERLAY_PORT}`, 'ofport').trim();
  box.ofctl('add-flow', UNDERLAY_BRIDGE, `priority=1,in_port=${wire},actions=LOCAL`);
  box.ofctl('add-flow', UNDERLAY_BRIDGE, `priority=1,in_port=LOCAL,actions=output:${wire}`);
  const routed = () => box.appctl('ovs/route/show').includes(`${NETWORK}.0/24`);
  await box.until(routed, 10_000, 'route to the underlay');
  box.appctl('tnl/neigh/set', UNDERLAY_BRIDGE, `${NETWORK}.2`, WIRE_MAC);
  const address = ['cat', `/sys/class/net/${UNDERLAY_BRIDGE}/address`];
  return {
    guest: UNDERLAY_PORT,
    vni: VNI,
    mac: WIRE_MAC,
    ip: `${NETWORK}.2`,
    switchMac: box.must(address[0]!, address[1]!).trim(),
    switchIp: `${NETWORK}.1`,
  };
}
