// Meters by OpenFlow 1.3 and later: meter mod, statistics, configuration, features (1.3 §7.3.4.4, §7.3.5.12-14).

import { METERS_MAX } from '../../../contract/meter.ts';
import { metersOf } from '../../switch/flowModsActions.ts';
import { MAX_BANDS, type MeterTable } from '../../switch/meters.ts';
import type { Bridge } from '../../switch/types.ts';
import { OFPM_ALL, OFPMC_ADD, OFPMC_MODIFY } from '../../wire/openflow/meter.ts';
import { OfError } from '../../wire/openflow/types.ts';
import type { HandlerTable } from './handlers.ts';
import { rejectSecondary } from './ofconn.ts';

/** 1 << OFPMBT_DROP. */
const BAND_TYPES = 2;
/** KBPS | PKTPS | BURST | STATS. */
const CAPABILITIES = 0xf;

export const meterHandlers: HandlerTable = {
  meter_mod(ofSwitch, { conn, xid, version }, message) {
    rejectSecondary(conn);
    const { bridge, tables } = ofSwitch;
    const { command, ...config } = message;
    const meters = metersFor(bridge);
    if (command === OFPMC_ADD) meters.add(config);
    else if (command === OFPMC_MODIFY) meters.modify(config);
    else {
      const { meterId } = config;
      const doomed = meterId === OFPM_ALL || meters.has(meterId) ? meters.select(meterId) : [];
      tables.removeMeters(doomed, { connection: conn, xid, version });
    }
    // What goes to controllers may be metered now, or not any more.
    bridge.flowsChanged();
    ofSwitch.meterModified(message, xid, conn);
  },

  meter_stats_request({ bridge }, request, { meterId }) {
    const users = new Map<number, number>();
    for (const table of bridge.tables) {
      for (const rule of table) {
        for (const id of new Set(metersOf(rule.actions))) users.set(id, (users.get(id) ?? 0) + 1);
      }
    }
    const stats = selected(bridge, meterId).map((one) =>
      metersFor(bridge).stats(one, users.get(one.id) ?? 0),
    );
    request.conn.reply({ type: 'meter_stats_reply', meters: stats }, request);
  },

  meter_config_request({ bridge }, request, { meterId }) {
    const configs = selected(bridge, meterId).map(({ id, flags, bands }) => ({
      meterId: id,
      flags,
      bands: [...bands],
    }));
    request.conn.reply({ type: 'meter_config_reply', meters: configs }, request);
  },

  meter_features_request({ bridge }, request) {
    const known = bridge.meters !== undefined;
    const features = {
      maxMeters: known ? METERS_MAX : 0,
      bandTypes: known ? BAND_TYPES : 0,
      capabilities: known ? CAPABILITIES : 0,
      maxBands: known ? MAX_BANDS : 0,
      maxColor: 0,
    };
    request.conn.reply({ type: 'meter_features_reply', features }, request);
  },
};

/** All meters of a bridge that has none are no meters; a single one is an error. */
function selected(bridge: Bridge, meterId: number): ReturnType<MeterTable['select']> {
  if (bridge.meters === undefined && meterId === OFPM_ALL) return [];
  return metersFor(bridge).select(meterId);
}

function metersFor(bridge: Bridge): MeterTable {
  if (bridge.meters === undefined) throw new OfError('OFPMMFC_INVALID_METER');
  return bridge.meters;
}
