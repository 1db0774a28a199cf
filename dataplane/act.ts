// Act: run a megaflow's program (contract/action.ts) on all packets of a burst that belong to it. Fourth stage.
//
// One action at a time for the whole group: the program is decoded once. An action that hands a packet on (output,
// recirculation) takes the packet itself if it is the last action, and a clone of it before that.

import {
  ACT_ADD_MPLS,
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_CT,
  ACT_DROP,
  ACT_END,
  ACT_HASH,
  ACT_METER,
  ACT_OUTPUT,
  ACT_POP_ETH,
  ACT_POP_MPLS,
  ACT_POP_NSH,
  ACT_POP_VLAN,
  ACT_PUSH_ETH,
  ACT_PUSH_MPLS,
  ACT_PUSH_NSH,
  ACT_PUSH_VLAN,
  ACT_RECIRC,
  ACT_SAMPLE,
  ACT_SET_ARP,
  ACT_SET_ETH,
  ACT_SET_IPV4,
  ACT_SET_IPV6,
  ACT_SET_META,
  ACT_SET_MPLS,
  ACT_SET_ND,
  ACT_SET_NSH,
  ACT_SET_TP,
  ACT_SET_TUNNEL,
  ACT_SET_VLAN,
  ACT_TRUNC,
  ACT_TUNNEL_POP,
  ACT_TUNNEL_PUSH,
  ACT_USERSPACE,
  CT_NAT,
} from '../contract/action.ts';
import {
  DROP_BAD_ACTION,
  DROP_FLOW_EXPLICIT,
  DROP_NONE,
  DROP_RECIRC_LIMIT,
} from '../contract/drop.ts';
import { K_RECIRC_ID } from '../contract/key.ts';
import { WK_RECIRC } from '../contract/memory.ts';
import {
  KEY_STRIDE,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_L3,
  PKT_MARK,
  PKT_TRUNC,
} from '../contract/packet.ts';
import { TP_OUT_PORT } from '../contract/tunnel.ts';
import { clone, cloneWithKey, output, outputList, release } from './batch.ts';
import { conntrack, forgetReleased, releasedCount, releasedFrom } from './ct/index.ts';
import { countDrop } from './drop.ts';
import { hashPacket } from './hash.ts';
import { markLines } from './key.ts';
import { MARK_REWRITTEN } from './mark.ts';
import { meterAll } from './meter.ts';
import { addMpls, popEth, popMpls, pushEth, pushMpls, setMpls } from './mpls.ts';
import { checkLengthAll, cloneAll, resetNested, sampleAll } from './nested.ts';
import { popNsh, pushNsh, setNsh } from './nsh.ts';
import { parseAgain, parseFresh } from './parse.ts';
import { LIST_MAX, S_RECIRC, S_UPCALL_KEY } from './scratch.ts';
import {
  popVlan,
  pushVlan,
  setArp,
  setEth,
  setIpv4,
  setIpv6,
  setNeighbour,
  setTransport,
  setVlan,
} from './set.ts';
import { popTunnel } from './tunnel/pop.ts';
import { anySegmented, isSegmented, pushTunnel, segment, segmentList } from './tunnel/push.ts';
import { upcall } from './upcall.ts';
import { addStat, nowMs, privateBase } from './worker.ts';

/** Packets that wait to be looked up again (S_RECIRC). */
let recirculating: i32 = 0;

/** Hands over the list of packets to recirculate, which is empty then: moves it to `to`, returns its length. */
export function takeRecirculated(to: u32): i32 {
  const n = recirculating;
  memory.copy(to, privateBase + S_RECIRC, (<u32>n) << 2);
  recirculating = 0;
  return n;
}

/** Forgets them, at the start of a worker. */
export function resetAct(): void {
  recirculating = 0;
  resetNested();
}

/**
 * Runs `program` on the `n` packets of `list`, which it may reorder and shorten. `modified`: their headers differ from
 * the key, which stays what the look-up saw until the end. `handedOn`: the packets have gone somewhere already, so the
 * end of the program is no drop.
 */
export function execute(
  program: u32,
  list: u32,
  n: i32,
  modified: bool = false,
  handedOn: bool = false,
): void {
  // Conntrack says of each packet whether it has translated it.
  let rewritten = modified;
  let at = program;
  while (n > 0) {
    const header = load<u32>(at);
    const op = header & 0xffff;
    if (op === ACT_END) break;
    const operands = at + 4;
    at += (header >> 16) << 2;
    const last = (load<u32>(at) & 0xffff) === ACT_END;
    if (op === ACT_OUTPUT) {
      outputAll(list, n, load<u32>(operands), last);
      if (last) return;
      handedOn = true;
    } else if (op === ACT_TRUNC) {
      const max = load<u32>(operands);
      for (let i = 0; i < n; i++) store<u32>(load<u32>(list + (i << 2)) + PKT_TRUNC, max);
    } else if (op === ACT_USERSPACE) {
      for (let i = 0; i < n; i++) {
        const pkt = load<u32>(list + (i << 2));
        if (modified) upcallModified(pkt, operands);
        else upcall(pkt, load<u32>(operands), load<u32>(operands, 4), load<u32>(operands, 8));
        store<u32>(pkt + PKT_TRUNC, 0);
      }
      handedOn = true;
    } else if (op === ACT_RECIRC) {
      recirculateAll(list, n, load<u32>(operands), last, rewritten);
      if (last) return;
      handedOn = true;
    } else if (op === ACT_METER) {
      n = meterAll(load<u32>(operands), list, n);
      if (n === 0) return;
    } else if (op === ACT_HASH) {
      for (let i = 0; i < n; i++) hash(load<u32>(list + (i << 2)), operands, modified);
    } else if (op === ACT_CLONE) {
      cloneAll(operands, list, n, last, modified);
      if (last) return;
      handedOn = true;
    } else if (op === ACT_SAMPLE) {
      sampleAll(operands, list, n, modified);
      handedOn = true;
    } else if (op === ACT_CHECK_PKT_LEN) {
      checkLengthAll(operands, list, n, last, modified);
      if (last) return;
      handedOn = true;
    } else if (op === ACT_TUNNEL_PUSH) {
      if (anySegmented(list, n)) {
        pushOneByOne(operands, at, list, n, handedOn);
        return;
      }
      n = pushTunnel(operands, list, n);
      readdress(operands, at, list, n);
      modified = true;
      rewritten = true;
    } else if (op === ACT_TUNNEL_POP) {
      popAll(operands, list, n, last);
      if (last) return;
      handedOn = true;
    } else if (op === ACT_DROP) {
      dropAll(list, n, load<u32>(operands));
      return;
    } else if (op === ACT_CT) {
      const before = releasedCount();
      n = conntrack(list, n, operands, nowMs);
      if (load<u32>(operands) & CT_NAT) modified = true;
      const fragments = releasedCount() - before;
      if (fragments > 0) execute(at, releasedFrom(before), fragments, modified, handedOn);
      forgetReleased(before);
    } else if (op === ACT_SET_TUNNEL) {
      // For a port that encapsulates by itself; ours drop what is output to them.
    } else if (op === ACT_SET_META) {
      for (let i = 0; i < n; i++) setMeta(load<u32>(list + (i << 2)), operands);
    } else {
      n = rewriteAll(op, operands, list, n);
      modified = true;
      rewritten = true;
    }
  }
  if (handedOn) {
    for (let i = 0; i < n; i++) release(load<u32>(list + (i << 2)));
  } else {
    dropAll(list, n, DROP_FLOW_EXPLICIT);
  }
}

function outputAll(list: u32, n: i32, port: u32, last: bool): void {
  if (last) {
    outputList(list, n, port);
    return;
  }
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const copy = clone(pkt);
    store<u32>(pkt + PKT_TRUNC, 0);
    if (copy === 0) countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_RECIRC_LIMIT);
    else output(copy, port);
  }
}

/**
 * What is going to be looked up again: the packet if this is its last action, else a clone. 0 = dropped. All clone
 * records can be taken only by packets that wait for recirculation, hence the name of the drop.
 */
function toRecirculate(pkt: u32, last: bool): u32 {
  const copy = last ? pkt : cloneWithKey(pkt);
  if (copy !== 0 && recirculating < LIST_MAX) return copy;
  countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_RECIRC_LIMIT);
  if (copy !== 0) release(copy);
  return 0;
}

function recirculate(pkt: u32): void {
  store<u32>(pkt + PKT_TRUNC, 0);
  store<u32>(privateBase + S_RECIRC + (recirculating << 2), pkt);
  recirculating++;
}

function recirculateAll(list: u32, n: i32, id: u32, last: bool, rewritten: bool): void {
  for (let i = 0; i < n; i++) {
    const pkt = toRecirculate(load<u32>(list + (i << 2)), last);
    if (pkt === 0) continue;
    store<u32>(load<u32>(pkt + PKT_KEY) + K_RECIRC_ID, bswap<u32>(id));
    if (rewritten) store<u32>(pkt + PKT_MARK, load<u32>(pkt + PKT_MARK) | MARK_REWRITTEN);
    recirculate(pkt);
  }
  addStat(WK_RECIRC, <f64>n);
}

/** Packets come out of the tunnel: they are looked up as if they had come in by its port. */
function popAll(operands: u32, list: u32, n: i32, last: bool): void {
  for (let i = 0; i < n; i++) {
    const pkt = toRecirculate(load<u32>(list + (i << 2)), last);
    if (pkt === 0) continue;
    const reason = popTunnel(pkt, operands);
    if (reason === DROP_NONE) {
      store<u32>(pkt + PKT_MARK, load<u32>(pkt + PKT_MARK) | MARK_REWRITTEN);
      recirculate(pkt);
    } else {
      countDrop(load<u32>(pkt + PKT_IN_PORT), reason);
      release(pkt);
    }
  }
}

/** A push with packets that have to be segmented first. In order: the rest of the program runs for each before the next. */
function pushOneByOne(operands: u32, rest: u32, list: u32, n: i32, handedOn: bool): void {
  for (let i = 0; i < n; i++) {
    let at = list + (i << 2);
    let count = 1;
    const pkt = load<u32>(at);
    if (isSegmented(pkt)) {
      count = segment(pkt, operands);
      at = segmentList();
    }
    count = pushTunnel(operands, at, count);
    readdress(operands, rest, at, count);
    if (count > 0) execute(rest, at, count, true, handedOn);
  }
}

/**
 * Behind a tunnel's push the packet is another one. Mostly it is just output; anything else may want to know its
 * headers, and looks as if it had come in by the underlay bridge's own port.
 */
function readdress(operands: u32, rest: u32, list: u32, n: i32): void {
  if ((load<u32>(rest) & 0xffff) === ACT_OUTPUT) return;
  const port = load<u32>(operands + TP_OUT_PORT * 4);
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    parseFresh(pkt, port);
  }
}

/**
 * The control plane gets the key of the packet as it is now, made in a place of its own: the actions that follow go on
 * with key and offsets of the look-up. A parse of a packet with more tags than vlan-limit would not find its L3 header
 * again.
 */
function upcallModified(pkt: u32, operands: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  const offsets = load<u32>(pkt + PKT_L3); // and PKT_L4
  const scratch = privateBase + S_UPCALL_KEY;
  memory.copy(scratch, key, KEY_STRIDE);
  store<u32>(pkt + PKT_KEY, scratch);
  parseAgain(pkt);
  upcall(pkt, load<u32>(operands), load<u32>(operands, 4), load<u32>(operands, 8));
  store<u32>(pkt + PKT_KEY, key);
  store<u32>(pkt + PKT_L3, offsets);
}

/** Hashes the packet as it is now. */
function hash(pkt: u32, operands: u32, modified: bool): void {
  const key = load<u32>(pkt + PKT_KEY);
  if (!modified) {
    hashPacket(key, key, load<u32>(operands), load<u32>(operands, 4));
    return;
  }
  const offsets = load<u32>(pkt + PKT_L3); // and PKT_L4
  const scratch = privateBase + S_UPCALL_KEY;
  memory.copy(scratch, key, KEY_STRIDE);
  store<u32>(pkt + PKT_KEY, scratch);
  parseAgain(pkt);
  hashPacket(scratch, key, load<u32>(operands), load<u32>(operands, 4));
  store<u32>(pkt + PKT_KEY, key);
  store<u32>(pkt + PKT_L3, offsets);
}

function dropAll(list: u32, n: i32, reason: u32): void {
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    countDrop(load<u32>(pkt + PKT_IN_PORT), reason);
    release(pkt);
  }
}

function setMeta(pkt: u32, operands: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  const offset = load<u32>(operands);
  const mask = load<u32>(operands, 8);
  const at = key + offset;
  store<u32>(at, (load<u32>(at) & ~mask) | (load<u32>(operands, 4) & mask));
  markLines(key, 1 << (offset >> 6));
}

/** Applies a rewrite to all packets; those that it does not fit are dropped and leave the list. */
function rewriteAll(op: u32, operands: u32, list: u32, n: i32): i32 {
  let kept = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    if (rewrite(op, operands, pkt)) {
      store<u32>(list + (kept << 2), pkt);
      kept++;
    } else {
      countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_BAD_ACTION);
      release(pkt);
    }
  }
  return kept;
}

function rewrite(op: u32, operands: u32, pkt: u32): bool {
  switch (op) {
    case ACT_SET_ETH:
      return setEth(pkt, operands);
    case ACT_SET_IPV4:
      return setIpv4(pkt, operands);
    case ACT_SET_IPV6:
      return setIpv6(pkt, operands);
    case ACT_SET_TP:
      return setTransport(pkt, operands);
    case ACT_SET_ARP:
      return setArp(pkt, operands);
    case ACT_SET_ND:
      return setNeighbour(pkt, operands);
    case ACT_PUSH_VLAN:
      return pushVlan(pkt, load<u32>(operands));
    case ACT_POP_VLAN:
      return popVlan(pkt);
    case ACT_SET_VLAN:
      return setVlan(pkt, load<u32>(operands));
    case ACT_PUSH_MPLS:
      return pushMpls(pkt, operands);
    case ACT_ADD_MPLS:
      return addMpls(pkt, operands);
    case ACT_POP_MPLS:
      return popMpls(pkt, operands);
    case ACT_SET_MPLS:
      return setMpls(pkt, operands);
    case ACT_PUSH_ETH:
      return pushEth(pkt, operands);
    case ACT_POP_ETH:
      return popEth(pkt);
    case ACT_PUSH_NSH:
      return pushNsh(pkt, operands);
    case ACT_POP_NSH:
      return popNsh(pkt);
    case ACT_SET_NSH:
      return setNsh(pkt, operands);
    default:
      return false;
  }
}
