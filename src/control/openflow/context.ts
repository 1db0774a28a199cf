// What the OpenFlow handlers work on: one bridge with its flow tables, and the connections that hear of changes.
// Implemented by connmgr.ts; an interface of its own so that handlers can be read, and tested, without sockets.

import type { CheckActions, FlowTables } from '../../switch/flowMods.ts';
import type { Bridge, BridgePort } from '../../switch/types.ts';
import type { Message, Role } from '../../wire/openflow/messages.ts';
import type { Action, PortDesc } from '../../wire/openflow/types.ts';
import type { Ofconn } from './ofconn.ts';
import type { TlvTable } from './tlvTable.ts';
import type { Log } from './vconn.ts';

/** OFPMP_DESC, Bridge.other_config:dp-desc and dp-sn. */
export interface SwitchDesc {
  mfr: string;
  hw: string;
  sw: string;
  serial: string;
  dp: string;
}

export interface OfSwitch {
  readonly bridge: Bridge;
  readonly tables: FlowTables;
  readonly tlvTable: TlvTable;
  readonly desc: SwitchDesc;
  readonly log: Log;
  /** Milliseconds after which an idle bundle is thrown away (other_config:bundle-idle-timeout). */
  readonly bundleIdleTimeoutMs: number;
  readonly connections: Iterable<Ofconn>;
  /** Throws OfError for actions that the bridge cannot execute. */
  readonly checkActions: CheckActions;
  /** The same for a bucket of a group: whether actions fit packets shows when packets come. */
  readonly checkBucket: (actions: readonly Action[]) => void;
  /** False: the id is stale. */
  setElectionId(id: bigint): boolean;
  /** All ones when no controller has set one. */
  readonly electionId: bigint;
  /** Gives the connection the role; another primary becomes secondary. */
  setRole(conn: Ofconn, role: Exclude<Role, 'nochange'>): void;
  /** Tells controllers of a changed description. `source` asked for the change itself. */
  portModified(port: BridgePort, old: PortDesc, source: Ofconn | undefined): void;
  /** A group-mod or meter-mod of connection `by` has been carried out: others may want to know. */
  groupModified(message: Extract<Message, { type: 'group_mod' }>, xid: number, by: Ofconn): void;
  meterModified(message: Extract<Message, { type: 'meter_mod' }>, xid: number, by: Ofconn): void;
  /** A flow does not fit into a message of the version in which somebody wants to see it. */
  flowTooLong(): void;
  /** The number of connections that want misses may have changed. */
  missConfigChanged(): void;
}
