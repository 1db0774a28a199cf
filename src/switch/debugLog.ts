// A module of the log (src/observe/vlog.ts, which the switch does not know) to which things are said at level "dbg" only.

/** `isDbg`: does anybody listen? Texts that cost something are made only then. */
export interface DebugLog {
  dbg(text: string): void;
  isDbg(): boolean;
}
