// What the data plane asks of its host: one function, the single import of the module besides the memory.
//
// Everything else is a pure function of (memory, time). A guest larger than the window space cannot be mapped whole,
// so a chunk that a descriptor points to may have to be mapped first (contract/window.ts).

/**
 * Maps a chunk of a port's guest memory: writes its entry of the chunk table and returns it, or returns 0 when no
 * window space is free. Never unmaps another chunk: packets in flight may still point there.
 */
export declare function fault(port: u32, chunk: u32): u32;
