// What the data plane can do, as `dpif/show-dp-features` and `dpif/set-dp-features` name it (ovs-vswitchd(8)).
//
// Open vSwitch finds out at start what its data plane lacks, and can be told to do as if it lacked more: that is how its
// translation for lesser data planes is looked at. What a data plane lacks, Open vSwitch does in the slow path, and packets are
// none the wiser: so do we with "trunc" and "add_mpls". Without "tnl_push_pop" a tunnel's packets are for a port that would
// encapsulate them itself; traces show set(tunnel(…)), packets go nowhere. The others are shown as off, and done all the same.

import type { Datapath } from './datapath.ts';

interface Feature {
  readonly name: string;
  readonly title: string;
  readonly value: boolean | number;
}

const feature = (name: string, title: string, value: boolean | number): Feature => ({
  name,
  title,
  value,
});

const FEATURES: readonly Feature[] = [
  feature('masked_set_action', 'Masked set action', true),
  feature('tnl_push_pop', 'Tunnel push pop', true),
  feature('ufid', 'Ufid', true),
  feature('trunc', 'Truncate action', true),
  feature('clone', 'Clone action', true),
  feature('sample_nesting', 'Sample nesting', 10),
  feature('ct_eventmask', 'Conntrack eventmask', true),
  feature('ct_clear', 'Conntrack clear', true),
  feature('max_hash_alg', 'Max dp_hash algorithm', 1),
  feature('check_pkt_len', 'Check pkt length action', true),
  feature('ct_timeout', 'Conntrack timeout policy', true),
  feature('explicit_drop_action', 'Explicit Drop action', true),
  feature('lb_output_action', 'Optimized Balance TCP mode', false),
  feature('ct_zero_snat', 'Conntrack all-zero IP SNAT', true),
  feature('add_mpls', 'MPLS Label add', true),
  feature('max_vlan_headers', 'Max VLAN headers', 2),
  feature('max_mpls_depth', 'Max MPLS depth', 3),
  feature('recirc', 'Recirc', true),
  feature('ct_state', 'CT state', true),
  feature('ct_zone', 'CT zone', true),
  feature('ct_mark', 'CT mark', true),
  feature('ct_label', 'CT label', true),
  feature('ct_state_nat', 'CT state NAT', true),
  feature('ct_orig_tuple', 'CT orig tuple', true),
  feature('ct_orig_tuple6', 'CT orig tuple for IPv6', true),
  feature('nd_ext', 'IPv6 ND Extension', true),
];

/** dpif/show-dp-features: what there is, whatever is switched off. */
export function showFeatures(): string {
  return FEATURES.map(({ title, value }) => {
    const text = typeof value === 'number' ? String(value) : value ? 'Yes' : 'No';
    return `${title}: ${text}\n`;
  }).join('');
}

function showFeature(datapath: Datapath, { name, title, value }: Feature): string {
  const now = datapath.features.get(name) ?? value;
  return `${name} (${title}) : [run time]:${now}, [boot time]:${value}\n`;
}

/** What is wrong with this value of the feature; undefined: nothing. */
function complaint({ value: most }: Feature, text: string): string | undefined {
  if (typeof most === 'boolean') {
    const word = text.toLowerCase();
    if (word !== 'true' && word !== 'false') return 'Boolean value expected';
    if (word === 'true' && !most) return 'Can not enable features not supported by the datapth';
    return undefined;
  }
  if (!/^[+-]?\d+$/.test(text)) return 'Integer number expected';
  if (Number(text) < 0) return 'Negative number not expected';
  if (Number(text) > most) return 'Can not set value beyond the datapath capability';
  return undefined;
}

/** dpif/set-dp-features BRIDGE [NAME [VALUE]]. */
export async function setFeatures(
  datapath: Datapath,
  name: string | undefined,
  value: string | undefined,
): Promise<string> {
  if (name === undefined) return FEATURES.map((one) => showFeature(datapath, one)).join('');
  const found = FEATURES.find((one) => one.name === name);
  if (found === undefined) return 'Unexpected support field';
  if (value === undefined) return showFeature(datapath, found);
  const wrong = complaint(found, value);
  if (wrong !== undefined) return wrong;
  const set = typeof found.value === 'number' ? Number(value) : value.toLowerCase() === 'true';
  datapath.features.set(name, set);
  datapath.tunnels.pushPop = datapath.features.get('tnl_push_pop') !== false;
  await datapath.purge();
  return '';
}
