export const BASELINE: ReadonlySet<number> = new Set([1]);
