// Copies of packets for mirrors (table Mirror of ovs-vswitchd.conf.db(5)), made where the real switch makes them: of
// what comes in before any action, of what goes out directly behind the output. A packet goes once to each output.

import { K_ETH_DST, K_VLAN0_TCI, VLAN_PRESENT } from '../../../contract/key.ts';
import { exact, or16 } from '../flow.ts';
import { isReservedAddress } from '../macLearning.ts';
import type { Mirror } from '../mirrors.ts';
import {
  extractTags,
  includesVlan,
  inputTags,
  inputVidIsValid,
  outputToBundle,
} from '../normal.ts';
import type { Bundle } from '../types.ts';
import { inPort, portOf, report, type Xlate } from './context.ts';

const VID = 0x0fff;

/** The packet has come in by x's input port. */
export function mirrorInput(x: Xlate): void {
  const { mirrors } = x.bridge;
  if (mirrors?.any !== true) return;
  const bundle = portOf(x, inPort(x))?.bundle;
  if (bundle !== undefined) mirrorPacket(x, bundle, mirrors.sourceMask(bundle));
}

/** The packet has gone out by the bundle. */
export function mirrorOutput(x: Xlate, bundle: Bundle): void {
  const { mirrors } = x.bridge;
  if (mirrors?.any === true) mirrorPacket(x, bundle, mirrors.destinationMask(bundle));
}

/** Is the port reserved for mirrored packets? */
export function isMirrorOutput(x: Xlate, bundle: Bundle | undefined): boolean {
  return bundle !== undefined && x.bridge.mirrors?.isOutput(bundle) === true;
}

function mirrorPacket(x: Xlate, bundle: Bundle, mask: number): void {
  if ((mask & ~x.mirrors) === 0) return;
  const { flow, wildcards } = x;
  // Whether the VLAN may come in here at all decides, too.
  or16(wildcards, K_VLAN0_TCI, VID | VLAN_PRESENT);
  const received = extractTags(flow);
  if (!inputVidIsValid(x, received[0].vid, bundle)) return;
  const tags = inputTags(bundle, received);
  const { vid } = tags[0];
  for (let slot = 0; slot < 32; slot++) {
    // Outputs below may have mirrored the packet further.
    if ((mask & ~x.mirrors & (1 << slot)) === 0) continue;
    const mirror = x.bridge.mirrors?.get(slot);
    if (mirror === undefined || (mirror.vlans !== undefined && !mirror.vlans.has(vid))) continue;
    // Noted before the output, which must not mirror to the same place again.
    x.mirrors |= mirror.duplicates;
    x.effects.mirrors.push(mirror);
    sendToMirror(x, mirror, tags);
  }
}

function sendToMirror(x: Xlate, mirror: Mirror, tags: ReturnType<typeof extractTags>): void {
  const { out, outVlan, snaplen } = mirror;
  x.mirrorSnaplen = snaplen;
  if (out !== undefined) {
    outputToBundle(x, out, tags);
  } else if (outVlan !== undefined && tags[0].vid !== outVlan) {
    exact(x.wildcards, K_ETH_DST, 6);
    if (isReservedAddress(x.flow, K_ETH_DST)) {
      report(x, 'detail', 'packet has reserved destination MAC, not mirrored into a VLAN');
    } else {
      const inVlan: typeof tags = [{ ...tags[0], vid: outVlan }, tags[1]];
      for (const bundle of x.bridge.bundles) {
        if (includesVlan(x, bundle, inVlan) && !isMirrorOutput(x, bundle)) {
          outputToBundle(x, bundle, inVlan);
        }
      }
    }
  }
  x.mirrorSnaplen = 0;
}
