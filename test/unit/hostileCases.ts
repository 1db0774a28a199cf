// Every case of a hostile guest (G) or front-end (F): what the switch does, where that can be seen, and which tests show it.
//
// Data for docs/hostile-guests.md, which hostileDocs.test.ts renders from here and compares; it also checks that each test
// named exists and that every counter and message in `seen` is looked at there. `tests`: file below test/, and a piece of the test's name as it stands in the source.

export interface HostileCase {
  readonly id: string;
  readonly attack: string;
  readonly reaction: string;
  /** Name of the drop counter, or text of log and Interface.error. */
  readonly seen: string;
  readonly tests: readonly (readonly [file: string, name: string])[];
}

const RING = 'unit/virtqueueHostile.test.ts';
const QUEUE = 'unit/virtqueue.test.ts';
const QUEUE_FRAMES = 'unit/virtqueueFrames.test.ts';
const STATE = 'unit/vhostuser.test.ts';
const PORT = 'unit/vhostuserPort.test.ts';
const MODEL = 'property/virtqueue.test.ts';
const MESSAGES = 'property/vhostuser.test.ts';
const LIVE = 'interop/hostileFrontends.test.ts';
const LOST = 'interop/lostMemory.test.ts';
const FAIR = 'interop/fairness.test.ts';
const GUESTS = 'interop/vhostGuests.test.ts';

const BAD = '`rx_bad_descriptor`, `tx_bad_descriptor`';
const BROKEN = '`ring N is broken (…)`';

export const GUEST_CASES: readonly HostileCase[] = [
  {
    id: 'G1',
    attack: 'descriptor outside guest memory, or across its end',
    reaction: 'packet dropped, the chain is given back',
    seen: BAD,
    tests: [
      [RING, 'G1 outside'],
      [RING, 'G1 straddling'],
      [GUESTS, 'drop their own packets when descriptors point outside'],
    ],
  },
  {
    id: 'G2',
    attack: 'buffer across two regions that are not neighbours in memory',
    reaction: 'copied piece by piece',
    seen: 'nothing: legal',
    tests: [[RING, 'G2 G9 header and frame in pieces, across regions']],
  },
  {
    id: 'G3',
    attack: 'indirect table across two regions, or outside memory',
    reaction: 'read piece by piece; dropped if outside',
    seen: BAD,
    tests: [
      [RING, 'G3 table across two regions is read piecewise'],
      [RING, 'G3 table straddles the end'],
    ],
  },
  {
    id: 'G4',
    attack: 'address + length wraps at 2^64',
    reaction: 'packet dropped',
    seen: BAD,
    tests: [
      [RING, 'G4 wraps 2^64'],
      [RING, 'G4 a buffer or table that wraps from the end'],
    ],
  },
  {
    id: 'G5',
    attack: 'empty descriptor with an invalid address',
    reaction: 'never dereferenced',
    seen: '`rx_runt` if nothing else is there',
    tests: [[RING, 'G5 empty with bad address']],
  },
  {
    id: 'G6',
    attack: 'next beyond the ring, loops of any length',
    reaction: 'the walk ends after as many steps as the ring has entries',
    seen: BAD,
    tests: [
      [RING, 'G6 '],
      [RING, 'G6 G21 loops and bad indices'],
    ],
  },
  {
    id: 'G7',
    attack: 'available entry beyond the table',
    reaction: 'the entry is passed over: nothing could be given back',
    seen: BAD,
    tests: [
      [RING, 'G7 avail entry beyond the table'],
      [RING, 'on the ring that we fill'],
    ],
  },
  {
    id: 'G8',
    attack: 'available index jumps or goes backwards',
    reaction: 'the ring is given up, the front-end disconnected',
    seen: BROKEN,
    tests: [
      [RING, 'G8 avail index jumps by'],
      [GUESTS, 'lose their own port, and only that'],
    ],
  },
  {
    id: 'G9',
    attack: 'virtio-net header in several descriptors, the first shorter than it',
    reaction: 'gathered',
    seen: 'nothing: legal',
    tests: [
      [RING, 'G2 G9 header and frame in pieces'],
      [MODEL, 'receive: frames cut in any way arrive whole'],
    ],
  },
  {
    id: 'G10',
    attack: 'chain no longer than the header',
    reaction: 'packet dropped',
    seen: '`rx_runt`',
    tests: [
      [RING, 'G10 header only'],
      [RING, 'G10 less than the header'],
    ],
  },
  {
    id: 'G11',
    attack: 'descriptor changes between two reads',
    reaction: 'read once; either value is judged',
    seen: '`rx_bad_descriptor`, `rx_too_long`',
    tests: [[LIVE, 'what changes while it is read']],
  },
  {
    id: 'G12',
    attack: 'header changes while the packet is processed',
    reaction: 'the first 256 bytes are copied before anything looks at them',
    seen: 'nothing',
    tests: [[RING, 'G12 the head is ours']],
  },
  {
    id: 'G13',
    attack: 'checksum position beyond the packet',
    reaction: 'packet dropped',
    seen: '`rx_bad_vnet_header`',
    tests: [
      [RING, 'G13 csum_start beyond the frame'],
      [RING, 'G13 field in the last byte of the head'],
    ],
  },
  {
    id: 'G14',
    attack: 'impossible segmentation fields',
    reaction: 'packet dropped',
    seen: '`rx_bad_vnet_header`',
    tests: [
      [RING, 'G14 gso_size 0'],
      [RING, 'G14 unknown gso_type'],
      [RING, 'G14 hdr_len 65535'],
    ],
  },
  {
    id: 'G15',
    attack: 'segmentation headers longer than the head, or elsewhere than they say',
    reaction: 'packet dropped',
    seen: '`rx_bad_vnet_header`',
    tests: [
      [RING, 'G15 TCP header longer than the head'],
      [RING, 'G15 csum_start is not the TCP header'],
    ],
  },
  {
    id: 'G16',
    attack: 'packet over 64 KiB, or of too many pieces',
    reaction: 'packet dropped, memory bounded',
    seen: '`rx_too_long`',
    tests: [
      [RING, 'G16 4 GiB'],
      [RING, 'G16 more than 64 segments'],
    ],
  },
  {
    id: 'G17',
    attack: 'receive buffer smaller than the header',
    reaction: 'the buffer is given back empty, the packet dropped',
    seen: '`tx_bad_descriptor`',
    tests: [
      [RING, 'G17 runt'],
      [RING, 'G17 empty'],
    ],
  },
  {
    id: 'G18',
    attack: 'receive buffers too small, not mergeable',
    reaction:
      'packet dropped, the buffer stays for the next; of it no more than eight bytes are written',
    seen: '`tx_no_buffer`',
    tests: [[RING, 'G18 G33 too small without mergeable buffers']],
  },
  {
    id: 'G19',
    attack: 'mergeable buffers that end exactly, or too early',
    reaction: 'all buffers or none; num_buffers is right',
    seen: '`tx_ring_full`',
    tests: [
      [RING, 'G19 mergeable: all or nothing'],
      [RING, 'G19 a bad chain in the middle'],
    ],
  },
  {
    id: 'G20',
    attack: 'buffers of the wrong direction',
    reaction: 'packet dropped',
    seen: BAD,
    tests: [
      [RING, 'G20 write-only buffer'],
      [RING, 'G20 read-only buffer'],
    ],
  },
  {
    id: 'G21',
    attack: 'indirect tables nested, of bad length, not negotiated, or with NEXT',
    reaction: 'packet dropped',
    seen: BAD,
    tests: [
      [RING, 'G21 nested'],
      [RING, 'G21 length not a multiple'],
      [RING, 'G21 indirect not negotiated'],
      [RING, 'G21 INDIRECT with NEXT'],
    ],
  },
  {
    id: 'G22',
    attack: 'indirect length or table changes between two reads',
    reaction: 'read once',
    seen: '`rx_bad_descriptor`, `rx_too_long`',
    tests: [[LIVE, 'what changes while it is read']],
  },
  {
    id: 'G23',
    attack: 'packed: wrap counters, chains without end or across it, ids beyond the ring',
    reaction: 'bounded walk; legal ones pass, others end the ring',
    seen: BROKEN,
    tests: [
      [RING, 'G23 a chain as long as the ring without end'],
      [RING, 'G23 a chain across the end of the ring'],
      [RING, 'G23 a chain into descriptors that have been taken'],
    ],
  },
  {
    id: 'G24',
    attack: 'event index out of range',
    reaction: 'at worst one interrupt too many',
    seen: 'nothing',
    tests: [
      [QUEUE, 'G24 wherever it is'],
      [QUEUE, 'packed: enable, disable, descriptor event, G24'],
    ],
  },
  {
    id: 'G25',
    attack: 'relies on ids and lengths of used elements',
    reaction: 'head id, and just the bytes written',
    seen: 'nothing: legal',
    tests: [
      [MODEL, 'num_buffers and lengths are right'],
      [MODEL, 'buffers come back in order'],
    ],
  },
  {
    id: 'G26',
    attack: 'ring memory zeroed while it is in use',
    reaction: 'the queue rests, nothing spins',
    seen: 'nothing',
    tests: [
      [RING, 'G26 rings zeroed by a reset'],
      [RING, 'G26 rings zeroed by a reset: quiet, not broken'],
    ],
  },
  {
    id: 'G27',
    attack: 'frame shorter than an Ethernet header',
    reaction: 'packet dropped',
    seen: '`rx_runt`',
    tests: [
      [RING, 'G27 short frame'],
      [RING, 'G27 empty'],
    ],
  },
  {
    id: 'G28',
    attack: 'endless exchange with a receiver whose ring is full',
    reaction: 'a burst per queue and turn; other ports keep theirs',
    seen: '`tx_ring_full` of the receiver',
    tests: [[FAIR, 'one that floods, to one that takes nothing']],
  },
  {
    id: 'G29',
    attack: 'lengths in VLAN, IP, extension and TCP headers lie',
    reaction: 'the parser stays inside; offloads of such packets are refused',
    seen: '`rx_bad_vnet_header` where offloads were asked for',
    tests: [
      [RING, 'G29 IP header length lies'],
      [RING, 'G29 VLAN tags without end'],
      ['property/parse.test.ts', 'the arbitrary reaches the deep branches'],
    ],
  },
  {
    id: 'G30',
    attack: 'writes beyond the dirty log',
    reaction: 'not logged',
    seen: 'nothing',
    tests: [[QUEUE, 'G30 pages beyond the log are not logged']],
  },
  {
    id: 'G31',
    attack: 'queue used before it is set up',
    reaction: 'left alone',
    seen: 'nothing',
    tests: [[RING, 'G31 a queue without ring is left alone']],
  },
  {
    id: 'G32',
    attack: 'storm of kicks; call descriptor full',
    reaction: 'never blocks',
    seen: 'nothing',
    tests: [
      [LIVE, 'G32 a storm of kicks'],
      [QUEUE, 'G32 list of doorbells full'],
    ],
  },
  {
    id: 'G33',
    attack: 'jumbo packets to a guest with small buffers',
    reaction: 'packet dropped',
    seen: '`tx_no_buffer`, `tx_mtu_exceeded`',
    tests: [
      [RING, 'G18 G33 too small'],
      [QUEUE_FRAMES, 'MTU: two VLAN tags fit, more does not'],
    ],
  },
];

const REFUSED = 'nack, or disconnected if no answer was asked for';

export const FRONTEND_CASES: readonly HostileCase[] = [
  {
    id: 'F1',
    attack: 'count of regions beyond the limit, or unlike the size',
    reaction: REFUSED,
    seen: '`SET_MEM_TABLE: …`',
    tests: [[STATE, 'refuses counts that disagree with size or descriptors (F1, F3)']],
  },
  {
    id: 'F2',
    attack:
      'regions empty, overflowing, beyond the file, overlapping; a file that shrinks later or has no pages',
    reaction: `${REFUSED}; shrinking is sealed off, or the hole becomes empty memory and the front-end is disconnected`,
    seen: '`the memory file has shrunk to N bytes`, `a page of the memory file cannot be had`',
    tests: [
      [STATE, 'refuses ranges outside the file, overflows and overlaps (F2)'],
      [LOST, 'truncated under'],
      [LOST, 'a page that cannot be had: a full tmpfs'],
      [LOST, 'a dirty log that shrinks'],
    ],
  },
  {
    id: 'F3',
    attack: 'descriptors too few, too many, where none belong',
    reaction: `all closed; ${REFUSED}`,
    seen: '`… N descriptors`',
    tests: [
      [STATE, 'wants eventfds as doorbells, and the flag to agree with them (F3, F16)'],
      [PORT, 'leave no descriptor behind, wherever they stop (F3, F17)'],
    ],
  },
  {
    id: 'F4',
    attack: 'messages in pieces, several at once, truncated, oversized, with lost descriptors',
    reaction: 'legal ones are put together, others end the connection',
    seen: '`truncated message`, `more than 8 file descriptors`',
    tests: [
      [LIVE, 'F4 in pieces, two at once'],
      [MESSAGES, 'cuts any stream into the same messages'],
      [STATE, 'refuses wrong versions, replies, giant payloads'],
    ],
  },
  {
    id: 'F5',
    attack: 'ring index beyond the rings, in every message',
    reaction: REFUSED,
    seen: '`… ring N of M`',
    tests: [[STATE, 'refuses indices that do not exist in every message (F5)']],
  },
  {
    id: 'F6',
    attack: 'ring size 0, no power of two, too large, while running',
    reaction: REFUSED,
    seen: '`SET_VRING_NUM: …`',
    tests: [[STATE, 'checks sizes (F6)']],
  },
  {
    id: 'F7',
    attack: 'ring addresses outside memory, misaligned, too early, while running',
    reaction: REFUSED,
    seen: '`SET_VRING_ADDR: …`',
    tests: [[STATE, 'checks addresses (F7)']],
  },
  {
    id: 'F8',
    attack: 'dirty log too small, overflowing, beyond its file',
    reaction: 'disconnected (a nack would make QEMU abort)',
    seen: '`SET_LOG_BASE: …`',
    tests: [[STATE, 'answers SET_LOG_BASE with 16 bytes and disconnects rather than nacks (F8)']],
  },
  {
    id: 'F9',
    attack: 'inflight region unlike the rings',
    reaction: REFUSED,
    seen: '`SET_INFLIGHT_FD: …`',
    tests: [[STATE, 'checks inflight regions (F9)']],
  },
  {
    id: 'F10',
    attack: 'GET_INFLIGHT_FD again and again',
    reaction: 'our descriptor is closed each time',
    seen: 'nothing',
    tests: [[PORT, 'never piled up (F10)']],
  },
  {
    id: 'F11',
    attack: 'features that were not offered, or changed while rings run',
    reaction: REFUSED,
    seen: '`SET_FEATURES: …`',
    tests: [
      [STATE, 'refuses anything else (F11, F12)'],
      [STATE, 'allows only LOG_ALL to change while rings run (F11)'],
    ],
  },
  {
    id: 'F12',
    attack: 'unknown protocol features; messages of features not negotiated',
    reaction: REFUSED,
    seen: '`… is not negotiated`',
    tests: [[STATE, 'refuses anything else (F11, F12)']],
  },
  {
    id: 'F13',
    attack: 'memory exchanged or removed under rings in use',
    reaction: 'rings are taken from the workers first; without memory they rest',
    seen: 'nothing',
    tests: [
      [LIVE, 'F13 exchanged under'],
      [LIVE, 'F13 taken away under rings in use'],
    ],
  },
  {
    id: 'F14',
    attack: 'one mapping of several fails',
    reaction: 'the others are undone; disconnected',
    seen: '`SET_MEM_TABLE: mmap: …`',
    tests: [[LIVE, 'F14 the second of two mappings fails']],
  },
  {
    id: 'F15',
    attack: 'GET_VRING_BASE twice, or of a ring that never was',
    reaction: 'answered; the addresses are forgotten',
    seen: 'nothing',
    tests: [[STATE, 'stops at GET_VRING_BASE, twice and on rings that never were (F15, F22)']],
  },
  {
    id: 'F16',
    attack: 'doorbells that are no eventfds, or that block',
    reaction: `${REFUSED}; eventfds are made non-blocking`,
    seen: '`the descriptor is no eventfd`',
    tests: [
      [STATE, 'wants eventfds as doorbells'],
      [PORT, 'blocking doorbells are made non-blocking (F16)'],
    ],
  },
  {
    id: 'F17',
    attack: 'disconnection at any step, storms of connections',
    reaction: 'nothing stays behind',
    seen: 'limited log',
    tests: [
      [PORT, 'leave no descriptor behind, wherever they stop (F3, F17)'],
      [PORT, 'may come and go in a storm'],
      [PORT, 'cannot flood the log'],
    ],
  },
  {
    id: 'F18',
    attack: 'server absent, not accepting, or silent',
    reaction: 'tried again later; nobody waits',
    seen: '`…: will reconnect`',
    tests: [[LIVE, 'F18 servers that are absent, do not accept, or stay silent']],
  },
  {
    id: 'F19',
    attack: 'back-end channel closed or never read',
    reaction: 'no answer is waited for',
    seen: 'nothing',
    tests: [[LIVE, 'F19 a back-end channel that is closed']],
  },
  {
    id: 'F20',
    attack: 'postcopy and IOTLB messages, which are not offered',
    reaction: REFUSED,
    seen: '`request N: unknown`',
    tests: [[LIVE, 'F20 F24 of features that are not there']],
  },
  {
    id: 'F21',
    attack: 'MTU 0, 67, 65536 and above',
    reaction: REFUSED,
    seen: '`NET_SET_MTU: N`',
    tests: [[STATE, 'checks the MTU (F21)']],
  },
  {
    id: 'F22',
    attack: 'enabling a pair that was never set up',
    reaction: 'accepted, without effect',
    seen: 'nothing',
    tests: [[STATE, 'stops at GET_VRING_BASE, twice and on rings that never were (F15, F22)']],
  },
  {
    id: 'F23',
    attack: 'regions added twice, overlapping, beyond the slots; unknown ones removed',
    reaction: REFUSED,
    seen: '`ADD_MEM_REG: …`, `REM_MEM_REG: no such region`',
    tests: [
      [STATE, 'adds and removes single regions; a running ring notices neither (F23)'],
      [STATE, 'takes a region as often as the queue pairs of QEMU announce it'],
    ],
  },
  {
    id: 'F24',
    attack: 'SET_CONFIG and crypto messages',
    reaction: `${REFUSED}: not implemented, hence immune`,
    seen: '`request N: unknown`',
    tests: [[LIVE, 'F20 F24 of features that are not there']],
  },
  {
    id: 'F25',
    attack: 'NEED_REPLY on a message that has its own answer',
    reaction: 'one answer',
    seen: 'nothing',
    tests: [[LIVE, 'F25 exactly one answer, whatever the flags']],
  },
  {
    id: 'F26',
    attack: 'second front-end on a socket in use',
    reaction: 'refused',
    seen: '`second front-end on … refused`',
    tests: [[PORT, 'refuses a second front-end and a name with a slash']],
  },
  {
    id: 'F27',
    attack: 'control queue, VDUSE',
    reaction: 'there is none in the back-end: VIRTIO_NET_F_CTRL_VQ is the front-end’s own',
    seen: 'nothing',
    tests: [[STATE, 'offers what the contract says and refuses anything else (F11, F12)']],
  },
];
