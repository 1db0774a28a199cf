// Vacancy events of a flow table (OpenFlow 1.4.1 §6.2 "Flow Table Vacancy"): a controller hears when a table is nearly
// full, and when there is room again. The two thresholds are a hysteresis: after one event only the other can come.

export interface Vacancy {
  /** Free space below this is "down", percent. */
  downPercent: number;
  /** Free space above this is "up", percent. */
  upPercent: number;
  /** The event that may come next; undefined = events are off. */
  awaited: 'down' | 'up' | undefined;
}

/** Free space of a table, percent. One without a limit is as good as empty. */
export function freePercent(flows: number, limit: number): number {
  if (limit === Number.POSITIVE_INFINITY) return 100;
  return flows >= limit ? 0 : Math.floor(((limit - flows) * 100) / limit);
}

/** The state after a table-mod with these thresholds; undefined = events are to be off. */
export function vacancyAfter(
  old: Vacancy,
  wanted: { downPercent: number; upPercent: number } | undefined,
  nowPercent: number,
): Vacancy {
  if (wanted === undefined) return { downPercent: 0, upPercent: 0, awaited: undefined };
  const { downPercent, upPercent } = wanted;
  // Events that are on already go on waiting for what they waited for.
  const awaited = old.awaited ?? (nowPercent < upPercent ? 'up' : 'down');
  return { downPercent, upPercent, awaited };
}

/** The event that this much free space is, if it is the awaited one; then the other one is awaited. */
export function crossed(vacancy: Vacancy, nowPercent: number): 'down' | 'up' | undefined {
  const { downPercent, upPercent, awaited } = vacancy;
  if (awaited === undefined) return undefined;
  const event = nowPercent < downPercent ? 'down' : nowPercent > upPercent ? 'up' : undefined;
  if (event !== awaited) return undefined;
  vacancy.awaited = event === 'down' ? 'up' : 'down';
  return event;
}
