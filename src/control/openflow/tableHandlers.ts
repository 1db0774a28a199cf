// OFPT_TABLE_MOD and OFPMP_TABLE_DESC (OpenFlow 1.4.1 §7.3.4, §7.3.5.6): what happens to packets that miss (until OpenFlow
// 1.2), whether a full table evicts flows, and when a controller hears that it is nearly full (from 1.4).

import type { FlowTables } from '../../switch/flowMods.ts';
import { HIDDEN_TABLE } from '../../switch/tableNumbers.ts';
import { vacancyAfter } from '../../switch/vacancy.ts';
import type { TableDesc } from '../../wire/openflow/messages.ts';
import { OfError } from '../../wire/openflow/types.ts';
import type { HandlerTable } from './handlers.ts';
import { rejectSecondary } from './ofconn.ts';

const ALL_TABLES = 0xff;
const TABLE_MISS_MASK = 3;
/** OFPTC14_EVICTION; below it, until OpenFlow 1.3, is what happens to packets that miss. */
const TABLE_EVICTION = 4;
/** OFPTMPEF14_OTHER | IMPORTANCE | LIFETIME: what the choice of a flow to evict looks at. */
const EVICTION_FLAGS = 0x7;

export function tableDesc(tables: FlowTables, table: number): TableDesc {
  const { evictByOpenFlow, vacancy } = tables.config[table];
  const { downPercent, upPercent, awaited } = vacancy;
  const nowPercent = tables.freePercent(table);
  return {
    table,
    eviction: evictByOpenFlow,
    evictionFlags: EVICTION_FLAGS,
    vacancy: awaited === undefined ? undefined : { downPercent, upPercent, nowPercent },
  };
}

export const tableHandlers: HandlerTable = {
  table_mod({ bridge, tables }, { conn, version }, message) {
    rejectSecondary(conn);
    const { table, config, evictionFlags, vacancy } = message;
    if (table !== ALL_TABLES && table > HIDDEN_TABLE) throw new OfError('OFPTMFC_BAD_TABLE');
    // How the flow to evict is chosen is the switch's affair.
    if (evictionFlags !== undefined && evictionFlags !== EVICTION_FLAGS) {
      throw new OfError('OFPTMFC_BAD_CONFIG');
    }
    if (table === HIDDEN_TABLE) throw new OfError('OFPTMFC_EPERM');
    for (const [id, one] of tables.config.entries()) {
      if (id === HIDDEN_TABLE || (table !== ALL_TABLES && table !== id)) continue;
      if (version < 5) {
        one.missConfig = config & TABLE_MISS_MASK;
        continue;
      }
      one.evictByOpenFlow = (config & TABLE_EVICTION) !== 0;
      one.vacancy = vacancyAfter(one.vacancy, vacancy, tables.freePercent(id));
    }
    bridge.flowsChanged();
  },

  table_desc_request({ tables }, request) {
    const ids = [...tables.config.keys()].filter((id) => id !== HIDDEN_TABLE);
    const descs = ids.map((id) => tableDesc(tables, id));
    request.conn.reply({ type: 'table_desc_reply', tables: descs }, request);
  },
};
