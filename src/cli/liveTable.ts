// The live table of `npm start`: rates per port, drops by reason, load of the workers. Pure: two samples in, text out.

import { DROP_NAMES } from '../../contract/names.ts';
import { OFPP_LOCAL } from '../wire/openflow/types.ts';

export interface PortSample {
  bridge: string;
  name: string;
  ofport: number;
  type: string;
  linkUp: boolean;
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
  /** Indexed by DROP_* (contract/drop.ts). */
  drops: readonly number[];
}

export interface WorkerSample {
  worker: number;
  busyNs: number;
  packets: number;
}

export interface Sample {
  atMs: number;
  ports: readonly PortSample[];
  workers: readonly WorkerSample[];
  megaflows: number;
}

const UNITS = ['', 'k', 'M', 'G', 'T'];

/** 1234567 → "1.23 M". */
export function si(value: number): string {
  let unit = 0;
  let v = value;
  while (v >= 1000 && unit < UNITS.length - 1) {
    v /= 1000;
    unit++;
  }
  const digits = v >= 100 || unit === 0 ? 0 : v >= 10 ? 1 : 2;
  return `${v.toFixed(digits)} ${UNITS[unit]}`.trimEnd();
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((h, i) => Math.max(h.length, ...rows.map((r) => r[i]!.length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((c, i) => (i < 3 ? c.padEnd(widths[i]!) : c.padStart(widths[i]!)))
      .join('  ')
      .trimEnd();
  return [line(head), widths.map((w) => '─'.repeat(w)).join('──'), ...rows.map(line)];
}

const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Lines of the table: what happened between two samples, and all drops since the start. */
export function renderLiveTable(before: Sample, now: Sample): string[] {
  const seconds = Math.max((now.atMs - before.atMs) / 1000, 0.001);
  const old = new Map(before.ports.map((p) => [`${p.bridge}/${p.name}`, p]));
  const rate = (p: PortSample, field: 'rxPackets' | 'txPackets' | 'rxBytes' | 'txBytes'): number =>
    Math.max(0, (p[field] - (old.get(`${p.bridge}/${p.name}`)?.[field] ?? p[field])) / seconds);
  const rows = now.ports.map((p) => [
    p.bridge,
    `${p.name} (${p.ofport === OFPP_LOCAL ? 'LOCAL' : p.ofport})`,
    p.type,
    p.linkUp ? 'up' : 'down',
    `${si(rate(p, 'rxPackets'))}pps`,
    `${si(rate(p, 'rxBytes') * 8)}bit/s`,
    `${si(rate(p, 'txPackets'))}pps`,
    `${si(rate(p, 'txBytes') * 8)}bit/s`,
    si(total(p.drops)),
  ]);
  const lines = table(
    ['bridge', 'port', 'type', 'link', 'rx', 'rx rate', 'tx', 'tx rate', 'drops'],
    rows,
  );
  const reasons = now.ports.flatMap((p) =>
    p.drops.flatMap((count, reason) =>
      count > 0 ? [`  ${p.name}: ${DROP_NAMES[reason] ?? `reason ${reason}`} ${si(count)}`] : [],
    ),
  );
  lines.push('', reasons.length > 0 ? 'drops since the start, by reason:' : 'no drops', ...reasons);
  const busy = now.workers.map((w) => {
    const was = before.workers.find((o) => o.worker === w.worker);
    const share = was ? (w.busyNs - was.busyNs) / (seconds * 1e9) : 0;
    return `worker ${w.worker} ${(share * 100).toFixed(0)} % busy`;
  });
  lines.push('', `${busy.join(', ')}; ${now.megaflows} megaflows`);
  return lines;
}
