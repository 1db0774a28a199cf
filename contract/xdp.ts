// QUEUE_XDP: the rings of an AF_XDP socket, mapped into the memory (linux/if_xdp.h, kernel Documentation/networking/af_xdp.rst).
//
// A socket has four rings and a UMEM of frames. The receive queue record owns the rx ring, the fill ring and the first
// half of the frames; the transmit queue record the tx ring, the completion ring and the second half.
//
//   receive   fill ring --frames--> kernel --descriptors--> rx ring        frames go back to the fill ring when done
//   transmit  free stack --> tx ring --> kernel --> completion ring --> free stack
//
//   rx, tx descriptor (16 bytes)  0 u64 address in the UMEM   8 u32 length   12 u32 options (XDP_PKT_CONTD)
//   fill, completion entry        u64 address in the UMEM

export const XQ_FD = 64; // i32
export const XQ_UMEM = 68; // u32 address of the UMEM
export const XQ_UMEM_SIZE = 124; // u32 bytes of the UMEM
export const XQ_FRAME_SIZE = 72; // u32 bytes of a frame, a power of two
export const XQ_RING = 76; // u32 address of the descriptors of the rx or tx ring
export const XQ_RING_SIZE = 80; // u32 entries, a power of two
export const XQ_PRODUCER = 84; // u32 address of its producer index
export const XQ_CONSUMER = 88; // u32 address of its consumer index
export const XQ_FLAGS = 92; // u32 address of its flags
export const XQ_AUX = 96; // u32 address of the entries of the fill or completion ring
export const XQ_AUX_SIZE = 100; // u32
export const XQ_AUX_PRODUCER = 104; // u32 address
export const XQ_AUX_CONSUMER = 108; // u32 address
export const XQ_AUX_FLAGS = 112; // u32 address
export const XQ_FREE = 116; // u32 transmit: address of the stack of free frames, u32 UMEM offsets
export const XQ_INFER = 120; // u32 receive: 1 = the device may hand over unfinished checksums (veth, tun …)
export const XQ_FREE_COUNT = 128; // u32 W transmit
export const XQ_TAKEN = 132; // u32 W receive: descriptors of the burst, given back by xdpRxDone

export const XDP_RING_NEED_WAKEUP = 1;
export const XDP_PKT_CONTD = 1;
