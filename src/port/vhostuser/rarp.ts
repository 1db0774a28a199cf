// The announcement of a guest that has moved (RFC 903, as QEMU words it): a broadcast in its name, so that every
// switch on the way learns where the address lives now. 60 bytes without checksum.

const RARP_REQUEST = 3;

/** Frame that announces `mac` (6 bytes). */
export function rarpFrame(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(60);
  const view = new DataView(frame.buffer);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  view.setUint16(12, 0x8035);
  view.setUint16(14, 1); // Ethernet
  view.setUint16(16, 0x0800); // IPv4
  view.setUint8(18, 6);
  view.setUint8(19, 4);
  view.setUint16(20, RARP_REQUEST);
  frame.set(mac, 22);
  frame.set(mac, 32);
  return frame;
}
