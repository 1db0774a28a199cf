// Roles of controllers (OpenFlow 1.3 §6.3.6): at most one connection of a bridge is the primary, and who asks for that
// with a stale generation id (election id) is refused.

import type { Message, Role } from '../../wire/openflow/messages.ts';
import type { Ofconn } from './ofconn.ts';

export class Roles {
  #electionId: bigint | undefined;

  /** All ones when no controller has set one. */
  get electionId(): bigint {
    return this.#electionId ?? 0xffffffffffffffffn;
  }

  setElectionId(id: bigint): boolean {
    // Ids wrap: what counts is the sign of the 64-bit difference.
    if (this.#electionId !== undefined && BigInt.asIntN(64, id - this.#electionId) < 0n) {
      return false;
    }
    this.#electionId = id;
    return true;
  }

  /** `connections`: all of the bridge. */
  setRole(conn: Ofconn, role: Exclude<Role, 'nochange'>, connections: Iterable<Ofconn>): void {
    if (role === 'primary' && conn.role !== 'primary') {
      for (const other of connections) {
        if (other.role !== 'primary') continue;
        other.role = 'secondary';
        // OFPCRR_MASTER_REQUEST; the message exists since OpenFlow 1.4, and in 1.3 as an extension.
        const status: Message = {
          type: 'role_status',
          role: 'secondary',
          reason: 0,
          generationId: this.electionId,
        };
        if (other.version >= 4) other.send(status);
      }
    }
    conn.role = role;
  }
}
