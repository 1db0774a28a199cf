// The NORMAL action: a learning Ethernet switch with VLANs.
//
//   VLAN of the packet on the input port ── admissible? ── learn source ── look destination up ── output or flood,
//   each with the VLAN tags that the output port wants.
//
// Semantics of VLAN modes: vswitchd.conf.db(5), table Port, "VLAN Configuration".

import {
  DROP_NO_LEARNED_PORT,
  DROP_NO_PORT,
  DROP_RESERVED_MAC,
  DROP_VLAN_FILTER,
} from '../../contract/drop.ts';
import {
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { OFPP_CONTROLLER, OFPP_NONE } from '../wire/openflow/types.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_VLAN,
  exact,
  isVlanType,
  or16,
  putBe16,
} from './flow.ts';
import { isReservedAddress, macKey } from './macLearning.ts';
import { isSnooped, translateMulticast } from './multicast/forward.ts';
import { NETFLOW_FLOOD } from './netflow.ts';
import { hashAndRecirculate, needsHash } from './translate/bondOutput.ts';
import { inPort, portOf, report, type Xlate } from './translate/context.ts';
import { isMirrorOutput } from './translate/mirror.ts';
import { outputToPort } from './translate/output.ts';
import type { BridgePort, Bundle } from './types.ts';

const OFPPC_NO_FLOOD = 16;
const VID = 0x0fff;
const PCP = 0xe000;

/** One VLAN header during processing: no PRESENT bit, since VLAN 0 without priority is "untagged". */
interface Tag {
  tpid: number;
  vid: number;
  pcp: number;
}
type Tags = [outer: Tag, inner: Tag];

const none = (): Tag => ({ tpid: 0, vid: 0, pcp: 0 });

export function extractTags(flow: Uint8Array): Tags {
  const tags: Tags = [none(), none()];
  for (let i = 0; i < 2; i++) {
    const at = K_VLAN0_TCI + 4 * i;
    const tci = be16(flow, at);
    if (!isVlanType(be16(flow, at + 2)) || (tci & VLAN_PRESENT) === 0) break;
    tags[i] = { tpid: be16(flow, at + 2), vid: tci & VID, pcp: tci & PCP };
  }
  return tags;
}

function putTags(flow: Uint8Array, tags: Tags, priorityTags: Bundle['priorityTags']): void {
  for (let i = 0; i < 2; i++) {
    const at = K_VLAN0_TCI + 4 * i;
    const { tpid, vid, pcp } = tags[i]!;
    let tci = vid | pcp;
    if (tci !== 0 || (priorityTags === 'always' && tpid !== 0)) {
      tci |= VLAN_PRESENT;
      putBe16(flow, at + 2, tpid === 0 ? ETH_TYPE_VLAN : tpid);
    } else {
      putBe16(flow, at + 2, 0);
    }
    putBe16(flow, at, tci);
  }
}

/** A native VLAN is always trunked, and takes the place of VLAN 0. */
function trunks(bundle: Bundle, vid: number): boolean {
  if (bundle.tag !== 0 && bundle.vlanMode.startsWith('native')) {
    if (vid === 0) return false;
    if (vid === bundle.tag) return true;
  }
  return bundle.trunks === undefined || bundle.trunks.has(vid);
}

function allowsCvlan(bundle: Bundle, vid: number): boolean {
  return bundle.cvlans === undefined || bundle.cvlans.has(vid);
}

/** May a packet with this VLAN id come in here? Undefined bundle: the controller's own port, which may do anything. */
export function inputVidIsValid(x: Xlate, vid: number, bundle: Bundle | undefined): boolean {
  if (bundle === undefined) return true;
  const { name, tag } = bundle;
  switch (bundle.vlanMode) {
    case 'access':
      if (vid === 0) return true;
      report(
        x,
        'error',
        `dropping VLAN ${vid} tagged packet received on port ${name} configured as VLAN ${tag} access port`,
      );
      return false;
    case 'dot1q-tunnel':
      if (allowsCvlan(bundle, vid)) return true;
      report(
        x,
        'error',
        `dropping VLAN ${vid} packet received on dot1q-tunnel port ${name} that excludes this VLAN`,
      );
      return false;
    default:
      if (bundle.vlanMode !== 'trunk' && vid === 0) return true;
      if (trunks(bundle, vid)) return true;
      report(
        x,
        'error',
        `dropping VLAN ${vid} packet received on port ${name} not configured for trunking VLAN ${vid}`,
      );
      return false;
  }
}

/** VLANs of the packet inside the bridge. */
export function inputTags(bundle: Bundle | undefined, tags: Tags): Tags {
  const [outer, inner] = tags;
  switch (bundle?.vlanMode) {
    case 'access':
      return [{ tpid: outer.tpid || ETH_TYPE_VLAN, vid: bundle.tag, pcp: outer.pcp }, none()];
    case 'native-tagged':
    case 'native-untagged':
      if (outer.vid !== 0) return tags;
      return [{ tpid: outer.tpid || ETH_TYPE_VLAN, vid: bundle.tag, pcp: outer.pcp }, inner];
    case 'dot1q-tunnel':
      return [{ tpid: bundle.qinqEthertype, vid: bundle.tag, pcp: 0 }, outer];
    default:
      return tags;
  }
}

function outputTags(bundle: Bundle, tags: Tags): Tags {
  const [outer, inner] = tags;
  switch (bundle.vlanMode) {
    case 'access':
      return [none(), none()];
    case 'native-untagged':
      return outer.vid === bundle.tag ? [{ ...inner }, none()] : [{ ...outer }, { ...inner }];
    case 'dot1q-tunnel':
      return [{ ...inner }, none()];
    default:
      return [{ ...outer }, { ...inner }];
  }
}

export function includesVlan(x: Xlate, bundle: Bundle, tags: Tags): boolean {
  const [outer, inner] = tags;
  switch (bundle.vlanMode) {
    case 'access':
      if (inner.tpid !== 0) or16(x.wildcards, K_VLAN1_TCI, VID | VLAN_PRESENT);
      return outer.vid === bundle.tag && inner.vid === 0;
    case 'dot1q-tunnel':
      if (bundle.cvlans !== undefined) {
        or16(x.wildcards, K_VLAN0_TCI, VID | VLAN_PRESENT);
        or16(x.wildcards, K_VLAN1_TCI, 0xffff);
      }
      return outer.vid === bundle.tag && allowsCvlan(bundle, inner.vid);
    default:
      return trunks(bundle, outer.vid);
  }
}

/** Of a bundle without bond: the first member that is up. A bundle of one port is always usable. */
export function activeMember(bundle: Bundle): BridgePort | undefined {
  if (bundle.ports.length <= 1) return bundle.ports[0];
  return bundle.ports.find((port) => (port.desc.state & 1) === 0 && (port.desc.config & 1) === 0);
}

function floodable(bundle: Bundle): boolean {
  return bundle.ports.every(
    ({ desc, tree }) => (desc.config & OFPPC_NO_FLOOD) === 0 && tree?.forwards !== false,
  );
}

export function outputToBundle(x: Xlate, bundle: Bundle, tags: Tags): void {
  const { flow, wildcards } = x;
  if (bundle.vlanMode === 'dot1q-tunnel' && bundle.cvlans !== undefined) {
    or16(wildcards, K_VLAN1_TCI, 0xffff);
  }
  const hashed = needsHash(x, bundle);
  const chosen = hashed ? undefined : bundle.bond?.choose(flow, wildcards, tags[0].vid);
  let port = bundle.bond === undefined ? activeMember(bundle) : chosen?.port;
  if (hashed) port = bundle.bond?.members.find(({ enabled }) => enabled)?.port;
  if (chosen?.entry !== undefined) x.effects.bonds.push(chosen.entry);
  if (port === undefined) {
    x.dropReason = DROP_NO_PORT;
    return;
  }
  const out = outputTags(bundle, tags);
  if (bundle.priorityTags !== 'no') {
    or16(wildcards, K_VLAN0_TCI, PCP | VLAN_PRESENT);
    out[0].pcp = be16(flow, K_VLAN0_TCI) & PCP;
    if (out[0].tpid === 0 && bundle.priorityTags === 'always') out[0].tpid = tags[0].tpid;
  }
  for (const { tpid, vid } of out) {
    // Whether a header of VLAN 0 stays depends on its priority.
    if (tpid === 0 || vid !== 0) continue;
    or16(wildcards, K_VLAN0_TCI, PCP | VLAN_PRESENT);
    or16(wildcards, K_VLAN1_TCI, PCP | VLAN_PRESENT);
  }
  const before = flow.slice(K_VLAN0_TCI, K_VLAN1_TCI + 4);
  putTags(flow, out, bundle.priorityTags);
  if (hashed) hashAndRecirculate(x, bundle, port);
  else outputToPort(x, port.ofport);
  flow.set(before, K_VLAN0_TCI);
}

function floodVlan(x: Xlate, from: Bundle | undefined, tags: Tags): void {
  for (const bundle of x.bridge.bundles) {
    if (bundle === from || isMirrorOutput(x, bundle)) continue;
    if (includesVlan(x, bundle, tags) && floodable(bundle)) outputToBundle(x, bundle, tags);
  }
  x.netflowOutput = NETFLOW_FLOOD;
}

/** An ARP that announces the sender's own address: reply to all, or request for itself. */
function isGratuitousArp(x: Xlate): boolean {
  const { flow, wildcards } = x;
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_ARP) return false;
  exact(wildcards, K_ETH_DST, 6);
  if (be32(flow, K_ETH_DST) !== 0xffffffff || be16(flow, K_ETH_DST + 4) !== 0xffff) return false;
  wildcards[K_NW_PROTO] = 0xff;
  if (flow[K_NW_PROTO] === 2) return true;
  if (flow[K_NW_PROTO] !== 1) return false;
  exact(wildcards, K_NW_SRC, 8);
  for (let i = 0; i < 4; i++) if (flow[K_NW_SRC + i] !== flow[K_NW_DST + i]) return false;
  return true;
}

/** May this packet be forwarded at all? */
function isAdmissible(x: Xlate, port: BridgePort, vlan: number): boolean {
  const { bridge, flow } = x;
  if (!bridge.forwardBpdu && isReservedAddress(flow, K_ETH_DST)) {
    report(x, 'detail', 'packet has reserved destination MAC, dropping');
    x.dropReason = DROP_RESERVED_MAC;
    return false;
  }
  const { bond } = port.bundle;
  const verdict = bond?.admits(port, (flow[K_ETH_DST]! & 1) !== 0);
  if (verdict === 'drop') {
    report(x, 'detail', 'bonding refused admissibility, dropping');
    x.dropReason = DROP_VLAN_FILTER;
    return false;
  }
  if (verdict === 'drop-if-moved' || (bond === undefined && port.bundle.ports.length > 1)) {
    // What comes in on one member has come (or will come) in on another, too.
    const moved = bridge.macs.lookup(flow, K_ETH_SRC, vlan);
    x.effects.macQuestions.push({ macs: bridge.macs, key: macKey(flow, K_ETH_SRC, vlan) });
    const loops = moved !== undefined && moved.bundle !== port.bundle && !isGratuitousArp(x);
    if (loops || (bond === undefined && activeMember(port.bundle) !== port)) {
      const why = 'SLB bond thinks this packet looped back, dropping';
      report(x, 'detail', bond ? why : 'bonding refused admissibility, dropping');
      x.dropReason = DROP_VLAN_FILTER;
      return false;
    }
  }
  return true;
}

function learn(x: Xlate, bundle: Bundle, vlan: number, gratuitousArp: boolean): void {
  const { flow, bridge } = x;
  const mac = flow.slice(K_ETH_SRC, K_ETH_SRC + 6);
  if (x.in.learn && bridge.macs.update(mac, 0, vlan, bundle, gratuitousArp)) {
    const text = [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
    report(x, 'detail', `learned that ${text} is on port ${bundle.name} in VLAN ${vlan}`);
  }
  x.effects.macs.push({ bridge, bundle, mac, vlan, gratuitousArp });
}

/** Translates output:NORMAL. */
export function translateNormal(x: Xlate): void {
  const { flow, wildcards, bridge } = x;
  exact(wildcards, K_ETH_DST, 12);
  or16(wildcards, K_VLAN0_TCI, VID | VLAN_PRESENT);

  const number = inPort(x);
  const port = portOf(x, number);
  if (port === undefined && number !== OFPP_NONE && number !== OFPP_CONTROLLER) {
    report(x, 'error', `received packet on unknown port ${number}`);
    report(x, 'warn', 'no input bundle, dropping');
    x.dropReason = DROP_NO_PORT;
    return;
  }
  const from = port?.bundle;
  if (isVlanType(be16(flow, K_ETH_TYPE)) && (be16(flow, K_VLAN0_TCI) & VLAN_PRESENT) === 0) {
    report(x, 'warn', 'partial VLAN tag, dropping');
    x.dropReason = DROP_VLAN_FILTER;
    return;
  }
  if (isMirrorOutput(x, from)) {
    report(
      x,
      'error',
      `dropping packet received on port ${from!.name}, which is reserved exclusively for mirroring`,
    );
    report(x, 'warn', 'input port is mirror output port, dropping');
    x.dropReason = DROP_VLAN_FILTER;
    return;
  }
  const received = extractTags(flow);
  if (!inputVidIsValid(x, received[0].vid, from)) {
    report(x, 'warn', 'disallowed VLAN VID for this input port, dropping');
    x.dropReason = DROP_VLAN_FILTER;
    return;
  }
  const tags = inputTags(from, received);
  const vlan = tags[0].vid;
  if (port !== undefined && !isAdmissible(x, port, vlan)) return;

  const gratuitousArp = isGratuitousArp(x);
  if (from !== undefined) learn(x, from, vlan, gratuitousArp);

  if (isSnooped(x)) {
    x.dropReason = DROP_NO_LEARNED_PORT;
    translateMulticast(x, from, vlan, {
      flood: () => floodVlan(x, from, tags),
      to: (bundle) => outputToBundle(x, bundle, tags),
    });
    return;
  }
  const entry = bridge.macs.lookup(flow, K_ETH_DST, vlan);
  x.effects.macQuestions.push({ macs: bridge.macs, key: macKey(flow, K_ETH_DST, vlan) });
  if (entry === undefined) {
    report(x, 'detail', 'no learned MAC for destination, flooding');
    x.dropReason = DROP_NO_LEARNED_PORT;
    floodVlan(x, from, tags);
  } else if (isMirrorOutput(x, entry.bundle)) {
    report(x, 'warn', 'learned port is a mirror port, dropping');
    x.dropReason = DROP_NO_LEARNED_PORT;
  } else if (entry.bundle === from) {
    report(x, 'detail', 'learned port is input port, dropping');
    x.dropReason = DROP_NO_LEARNED_PORT;
  } else {
    report(x, 'detail', 'forwarding to learned port');
    outputToBundle(x, entry.bundle, tags);
  }
}
