// What the switch does with each OpenFlow message: the table from message type to handler. Handlers throw OfError for
// everything that a controller can get wrong; ofconn.ts turns it into OFPT_ERROR. Statistics are in statsHandlers.ts.

import type { Message, MessageType, TlvMapping } from '../../wire/openflow/messages.ts';
import { OFPP_MAX, OfError, type OfVersion } from '../../wire/openflow/types.ts';
import { changeAsync, packetInBit } from './asyncConfig.ts';
import { countFlowMod } from './bundles.ts';
import type { OfSwitch } from './context.ts';
import { groupHandlers } from './groupHandlers.ts';
import { meterHandlers } from './meterHandlers.ts';
import {
  DEFAULT_MISS_SEND_LEN,
  type Handler,
  type Ofconn,
  type Request,
  rejectSecondary,
} from './ofconn.ts';
import { applyPortMod, selectPorts } from './portHandlers.ts';
import { statsHandlers } from './statsHandlers.ts';
import { tableHandlers } from './tableHandlers.ts';
import { MAX_FIELDS, MAX_SPACE } from './tlvTable.ts';

export type HandlerOf<T extends MessageType> = (
  ofSwitch: OfSwitch,
  request: Request,
  message: Extract<Message, { type: T }>,
) => void | Promise<void>;

export type HandlerTable = { [T in MessageType]?: HandlerOf<T> };

/** OFPC_FRAG_*. */
const FRAG_MASK = 0x3;
const FRAG_REASSEMBLE = 2;
/** OFPC_INVALID_TTL_TO_CONTROLLER, OpenFlow 1.0 … 1.2. */
const INVALID_TTL_TO_CONTROLLER = 0x4;

const NO_BUFFER = 0xffffffff;
/** Datapath ports fit in 16 bits. */
const MAX_PORTS = 0xff00;

const handlers: HandlerTable = {
  ...statsHandlers,
  ...groupHandlers,
  ...meterHandlers,
  ...tableHandlers,

  features_request(ofSwitch, { conn, ...request }) {
    const { bridge } = ofSwitch;
    conn.reply(
      {
        type: 'features_reply',
        features: {
          datapathId: bridge.datapathId,
          nBuffers: 0,
          nTables: bridge.tables.length - 1,
          auxiliaryId: 0,
          flowStats: true,
          tableStats: true,
          portStats: true,
          queueStats: true,
          groupStats: true,
          arpMatchIp: true,
          bundles: true,
          flowMonitoring: false,
          ports: selectPorts(ofSwitch, 0xffffffff).map((port) => port.desc),
        },
      },
      { conn, ...request },
    );
  },

  get_config_request(ofSwitch, request) {
    const { conn, version } = request;
    const invalidTtl = version < 4 && conn.async[0].packetIn & packetInBit('invalid_ttl');
    conn.reply(
      {
        type: 'get_config_reply',
        flags: (ofSwitch.bridge.fragHandling ?? 0) | (invalidTtl ? INVALID_TTL_TO_CONTROLLER : 0),
        missSendLen: conn.missSendLen,
      },
      request,
    );
  },

  set_config(ofSwitch, { conn, version }, { flags, missSendLen }) {
    const known = version < 4 ? FRAG_MASK | INVALID_TTL_TO_CONTROLLER : FRAG_MASK;
    if ((flags & ~known) !== 0) throw new OfError('OFPSCFC_BAD_FLAGS');
    const frag = flags & FRAG_MASK;
    if (conn.type !== 'primary' || conn.role !== 'secondary') setFragHandling(ofSwitch, frag);
    if (version < 4) {
      const bit = packetInBit('invalid_ttl');
      const [primary, secondary] = conn.async;
      const packetIn =
        flags & INVALID_TTL_TO_CONTROLLER ? primary.packetIn | bit : primary.packetIn & ~bit;
      conn.async = [{ ...primary, packetIn }, secondary];
    }
    conn.missSendLen = missSendLen;
  },

  async barrier_request(ofSwitch, request) {
    // The promise of a barrier: what came before is in effect for every packet from now on.
    await ofSwitch.bridge.settled();
    request.conn.reply({ type: 'barrier_reply' }, request);
  },

  // ---- changes: not for controllers in the secondary role

  flow_mod(ofSwitch, { conn, xid, version }, message) {
    rejectSecondary(conn);
    ofSwitch.tables.apply(message.flowMod, { connection: conn, xid, version });
    countFlowMod(conn, message);
  },

  packet_out(ofSwitch, { conn, version }, { packetOut }) {
    rejectSecondary(conn);
    const { bufferId, inPort, match, actions, data } = packetOut;
    if (inPort >= MAX_PORTS && inPort < OFPP_MAX) throw new OfError('OFPBRC_BAD_PORT');
    if (bufferId !== NO_BUFFER) throw new OfError('OFPBRC_BUFFER_UNKNOWN');
    ofSwitch.bridge.packetOut(inPort, match, actions, data, version);
  },

  port_mod(ofSwitch, { conn }, { portMod }) {
    rejectSecondary(conn);
    applyPortMod(ofSwitch, portMod, conn);
  },

  bundle_control(_ofSwitch, request, { bundleId, control, flags }) {
    rejectSecondary(request.conn);
    request.conn.bundles.control(request, bundleId, control, flags);
  },

  bundle_add(_ofSwitch, request, message) {
    rejectSecondary(request.conn);
    request.conn.bundles.add(request, message);
  },

  tlv_table_mod(ofSwitch, { conn }, { command, mappings }) {
    rejectSecondary(conn);
    const { tlvTable, tables } = ofSwitch;
    const inUse = (mapping: TlvMapping) => tables.usesTunMetadata(mapping);
    if (command === 'add') tlvTable.add(mappings);
    else if (command === 'clear') tlvTable.clear(inUse);
    else {
      const indexes = mappings.map(({ index }) => index);
      tlvTable.delete(indexes, inUse);
    }
  },

  tlv_table_request(ofSwitch, request) {
    request.conn.reply(
      {
        type: 'tlv_table_reply',
        maxSpace: MAX_SPACE,
        maxFields: MAX_FIELDS,
        mappings: [...ofSwitch.tlvTable.mappings],
      },
      request,
    );
  },

  resume({ bridge }, _request, { packetIn }) {
    if (bridge.resume === undefined) throw new OfError('NXR_NOT_SUPPORTED');
    bridge.resume(packetIn);
  },

  ct_flush_zone(ofSwitch, _request, { zone }) {
    ofSwitch.bridge.ctFlush?.(zone);
  },

  ct_flush(ofSwitch, _request, { zone, match }) {
    ofSwitch.bridge.ctFlush?.(zone < 0 ? undefined : zone, match);
  },

  // ---- the connection's own settings

  role_request(ofSwitch, request, { role, generationId, nxt }) {
    const { conn } = request;
    if (role !== 'nochange') {
      if (role !== 'other' && generationId !== undefined) {
        if (!ofSwitch.setElectionId(generationId)) throw new OfError('OFPRRFC_STALE');
      }
      ofSwitch.setRole(conn, role);
    }
    conn.reply(
      { type: 'role_reply', role: conn.role, generationId: ofSwitch.electionId, nxt },
      request,
    );
  },

  get_async_request(_ofSwitch, request) {
    request.conn.reply({ type: 'get_async_reply', masks: request.conn.async }, request);
  },

  set_async(_ofSwitch, { conn, version }, { masks }) {
    conn.async = changeAsync(conn.async, masks, version);
    // A service that names its masks wants messages, though it has set no miss_send_len.
    if (conn.type === 'service' && conn.missSendLen === 0) conn.missSendLen = DEFAULT_MISS_SEND_LEN;
  },

  set_flow_format(_ofSwitch, { conn }, { format }) {
    conn.nxm = format === 'nxm';
  },

  flow_mod_table_id(_ofSwitch, { conn }, { enable }) {
    conn.tableId = enable;
  },

  set_packet_in_format(_ofSwitch, { conn }, { format }) {
    conn.packetInFormat = format;
  },

  set_controller_id(ofSwitch, { conn }, { controllerId }) {
    conn.controllerId = controllerId;
    ofSwitch.missConfigChanged();
  },

  flow_monitor_request(_ofSwitch, request, { requests }) {
    request.conn.monitors.request(request, requests);
  },

  flow_monitor_cancel(_ofSwitch, { conn }, { id }) {
    conn.monitors.cancel(id);
  },

  flow_age() {
    // Asks for idle_age and hard_age in flow statistics: they always are there.
  },

  error(ofSwitch, { conn }, { code, errorType, errorCode }) {
    const what = code === '' ? `type ${errorType}, code ${errorCode}` : code;
    ofSwitch.log.info(`${conn.rconn.name}: received error ${what}`);
  },
};

/** Handles messages for one switch. `note` hears of each before it is handled. */
export function createHandler(
  ofSwitch: OfSwitch,
  note: (conn: Ofconn, type: MessageType) => void,
): Handler {
  return (request, message) => {
    note(request.conn, message.type);
    const handler = handlers[message.type] as HandlerOf<MessageType> | undefined;
    if (handler === undefined) throw new OfError(badType(request.version, message.type));
    return handler(ofSwitch, request, message as never);
  };
}

/** Messages that only a switch sends, and requests that it does not know. */
function badType(_version: OfVersion, type: MessageType): string {
  const multipart = type.endsWith('_stats_request') || type === 'desc_request';
  return multipart ? 'OFPBRC_BAD_STAT' : 'OFPBRC_BAD_TYPE';
}

function setFragHandling({ bridge, log }: OfSwitch, frag: number): void {
  if (frag === (bridge.fragHandling ?? 0)) return;
  if (frag === FRAG_REASSEMBLE) {
    log.warn(`${bridge.name}: unsupported fragment handling mode reassemble`);
    return;
  }
  bridge.fragHandling = frag;
  bridge.flowsChanged();
}
