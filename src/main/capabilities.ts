// Datapath.capabilities: what the data plane can do, for whoever made a Datapath row (ovn-controller, administrators).
// Only what this version really does is "true"; OVN and Neutron decide by it.

import type { WantedRow } from '../control/ovsdb/columns.ts';
import type { Snapshot } from '../control/ovsdb/replica.ts';

const CAPABILITIES: Readonly<Record<string, string>> = {
  add_mpls: 'true',
  check_pkt_len: 'true',
  clone: 'true',
  ct_clear: 'true',
  ct_eventmask: 'true',
  ct_flush: 'true',
  ct_label: 'true',
  ct_mark: 'true',
  ct_orig_tuple: 'true',
  ct_orig_tuple6: 'true',
  ct_state: 'true',
  ct_state_nat: 'true',
  ct_timeout: 'true',
  ct_zero_snat: 'true',
  ct_zone: 'true',
  explicit_drop_action: 'true',
  lb_output_action: 'false',
  masked_set_action: 'true',
  max_hash_alg: '1',
  max_mpls_depth: '3',
  max_vlan_headers: '2',
  nd_ext: 'true',
  recirc: 'true',
  sample_nesting: 'true', // so the real daemon, whatever the depth
  tnl_push_pop: 'true',
  trunc: 'true',
  ufid: 'true',
};

/** Columns of the Datapath rows that Open_vSwitch.datapaths names for a type that we serve. */
export function datapathColumns(snapshot: Snapshot): ReadonlyMap<string, WantedRow<'Datapath'>> {
  const rows = new Map<string, WantedRow<'Datapath'>>();
  for (const [type, uuid] of Object.entries(snapshot.root?.datapaths ?? {})) {
    if (type === 'netdev' || type === 'system') rows.set(uuid, { capabilities: CAPABILITIES });
  }
  return rows;
}
