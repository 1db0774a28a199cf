// The rule set of scenario `rules`: 1 000 wildcard rules over addresses, protocol and ports with overlapping priorities.
//
// The generator's 64 000 flows (driver/saturate.ts, setFlow) come from source addresses 10.x.0.0 … 10.x.249.255 with
// source ports 1024 … 17407. Rules mix prefixes of several lengths, port ranges by mask and full wildcards, so that a
// megaflow has to look at all five fields; whatever rule wins, the packet goes to the other port.

const PREFIXES = [16, 20, 22, 24, 26, 28] as const;
const PORT_MASKS = [0x0000, 0xfc00, 0xff00, 0xffc0] as const;

/** Always the same pseudo-random numbers (xorshift32). */
function random(seed: number): () => number {
  let x = seed;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

/** Flow lines of ovs-ofctl for packets that enter at OpenFlow port `from` and leave at `to`. */
export function ruleLines(from: number, to: number, count = 1000): string[] {
  const next = random(0x12345678 + from);
  const lines = [`priority=1,in_port=${from},actions=output:${to}`];
  while (lines.length < count) {
    const length = PREFIXES[next() % PREFIXES.length]!;
    const low = next() & 0xffff & ~((1 << (32 - length)) - 1);
    const source = `10.${from}.${low >> 8}.${low & 255}/${length}`;
    const mask = PORT_MASKS[next() % PORT_MASKS.length]!;
    const port = (1024 + (next() & 0x3fff)) & mask;
    const fields = [`in_port=${from}`, 'udp', `nw_src=${source}`];
    if (mask !== 0) fields.push(`tp_src=0x${port.toString(16)}/0x${mask.toString(16)}`);
    if ((next() & 1) === 0) fields.push(`nw_dst=10.${to}.0.0/16`);
    if ((next() & 1) === 0) fields.push('tp_dst=9');
    lines.push(`priority=${2 + (next() % 1000)},${fields.join(',')},actions=output:${to}`);
  }
  return lines;
}

export const FIREWALL_ZONE = 1;

/**
 * Scenario `firewall`: the flows of a port whose guest may open connections (`client`) or not. All packets are tracked;
 * those of established connections pass, the first of a new one is committed, the rest is dropped.
 */
export function firewallLines(from: number, to: number, client: boolean): string[] {
  const track = `priority=10,in_port=${from},ip,actions=ct(zone=${FIREWALL_ZONE},table=1)`;
  const established = `table=1,priority=10,in_port=${from},ip,ct_state=+trk+est,actions=output:${to}`;
  const commit = `table=1,priority=10,in_port=${from},udp,ct_state=+trk+new,actions=ct(commit,zone=${FIREWALL_ZONE}),output:${to}`;
  return client ? [track, established, commit] : [track, established];
}
