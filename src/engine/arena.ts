// An allocator for a range of the shared memory: first fit over a sorted list of free pieces, neighbours joined.
//
// Used for the arena (frame slots, UMEM: few and large) and for the windows on guest memory (chunks). The control
// plane's bookkeeping only: it never touches the memory itself.

interface Piece {
  address: number;
  bytes: number;
}

export class Arena {
  private readonly free: Piece[];
  private readonly used = new Map<number, number>();

  constructor(base: number, bytes: number) {
    this.free = bytes > 0 ? [{ address: base, bytes }] : [];
  }

  /** Address of `bytes` bytes, a multiple of `align` after adding `bias`; -1 = no room in one piece. */
  take(bytes: number, align: number, bias = 0): number {
    for (let i = 0; i < this.free.length; i++) {
      const piece = this.free[i]!;
      const skew = (piece.address + bias) % align;
      const address = skew === 0 ? piece.address : piece.address + align - skew;
      const end = address + bytes;
      const pieceEnd = piece.address + piece.bytes;
      if (end > pieceEnd) continue;
      const parts: Piece[] = [];
      if (address > piece.address)
        parts.push({ address: piece.address, bytes: address - piece.address });
      if (end < pieceEnd) parts.push({ address: end, bytes: pieceEnd - end });
      this.free.splice(i, 1, ...parts);
      this.used.set(address, bytes);
      return address;
    }
    return -1;
  }

  /** Gives back what take() returned; returns its size. Throws if it was not taken. */
  give(address: number): number {
    const bytes = this.used.get(address);
    if (bytes === undefined) throw new Error(`arena: ${address} is not in use`);
    this.used.delete(address);
    let at = this.free.findIndex((piece) => piece.address > address);
    if (at < 0) at = this.free.length;
    this.free.splice(at, 0, { address, bytes });
    this.join(at);
    this.join(at - 1);
    return bytes;
  }

  freeBytes(): number {
    return this.free.reduce((sum, piece) => sum + piece.bytes, 0);
  }

  private join(at: number): void {
    const left = this.free[at];
    const right = this.free[at + 1];
    if (left === undefined || right === undefined) return;
    if (left.address + left.bytes !== right.address) return;
    left.bytes += right.bytes;
    this.free.splice(at + 1, 1);
  }
}
