// Bits of PKT_MARK, a word of the packet record that only the data plane reads.

/** A simple match (simple.ts): there is no key yet, and PKT_HASH holds the TCP flags. */
export const MARK_UNPARSED: u32 = 2;
/** Headers are not those of the key any more: to be parsed before the next look-up. */
export const MARK_REWRITTEN: u32 = 4;
