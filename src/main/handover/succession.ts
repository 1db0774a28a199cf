// The hand-over as the daemon sees it: what it gives, and how it takes (messages.ts has the conversation).
//
// Blocked is the time between the last queue that stops there and the first that starts here. So everything that takes
// long comes before (program, data plane, flow tables) or after (controllers, counters, learned addresses, database).

import type { DataPlaneEngine } from '../../engine/engine.ts';
import type { Bequest } from '../../port/types.ts';
import type { Datapath } from '../../switch/datapath.ts';
import { restoreMegaflows, saveMegaflows } from '../../switch/successor.ts';
import { closeFd } from '../../sys/fd.ts';
import type { SwitchIntent } from '../intent.ts';
import type { Reconciler } from '../reconcile.ts';
import type { DonorHooks } from './donor.ts';
import type { Heir } from './heir.ts';
import { conntrackLayout, FORMAT, type State } from './messages.ts';
import {
  applyLedger,
  BridgeSaver,
  type Ledger,
  type OpenFlowState,
  type SavedBridge,
  saveBridge,
  takeLearned,
  takeLedger,
} from './savedBridge.ts';

/** Guests wait so long for megaflows, the busiest first; without them their packets would wait, too. */
const WARM_MS = 10;
/** Nobody waits for the rehearsal but the operator. */
const REHEARSAL_MS = 500;
/** The others are made in slices of this length. */
const WARM_SLICE_MS = 2;

/** The journal is written again and again. */
const JOURNAL_FLOWS_MAX = 1024;

export interface Household {
  readonly engine: DataPlaneEngine;
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
  /** File of the table of connections; replaced by a predecessor's. */
  conntrackFd: number;
  /** What the database asks for; resolves when it has been read. */
  intent(): Promise<SwitchIntent>;
  /** Resolves when no reconfiguration is under way, and lets none begin. */
  hold(): Promise<void>;
  /** Reconfigurations may begin again. */
  unhold(): void;
  /** Handed over to process `pid`: this one ends. */
  end(pid: number): void;
  log: DonorHooks['log'];
}

/** Changes whenever the OpenFlow state of a bridge does. */
export function revisionOf(reconciler: Reconciler): string {
  return JSON.stringify(
    [...reconciler.bridges].map(([name, { bridge, connmgr }]) => [
      name,
      connmgr.tables.revision,
      [...bridge.meters.all()].map(({ id, flags, bands }) => [id, flags, bands]),
      connmgr.tlvTable.mappings,
    ]),
  );
}

export function stateOf(
  { engine, datapath, reconciler }: Household,
  flowsMax?: number,
  save = (unit: OpenFlowState): SavedBridge => saveBridge(unit),
): State {
  datapath.syncStats();
  return {
    format: FORMAT,
    revision: revisionOf(reconciler),
    originNs: engine.originNs,
    conntrackLayout: conntrackLayout(),
    bridges: [...reconciler.bridges.values()].map(save),
    megaflows: saveMegaflows(datapath, flowsMax),
  };
}

/** What is written into the journal, again and again. Counters begin anew after a crash: they are left out. */
export function journalOf(household: Household): () => State {
  const { bridges } = household.reconciler;
  const saver = new BridgeSaver();
  return () => ({
    ...stateOf(household, JOURNAL_FLOWS_MAX, (unit) => saver.save(unit)),
    ledger: [...bridges.values()].map(takeLearned),
  });
}

/**
 * After a crash: bridges as the journal has them. Gives what is to be done when the ports are there: what was learned, and
 * megaflows. Counters begin anew.
 */
export async function salvage(
  { datapath, reconciler }: Household,
  state: State,
  intent: SwitchIntent,
): Promise<() => Promise<void>> {
  await reconciler.prepare(intent, state.bridges);
  return async () => {
    for (const one of state.ledger ?? []) {
      const unit = reconciler.bridges.get(one.name);
      if (unit) applyLedger(unit, [], one);
    }
    const megaflows = state.megaflows && restoreMegaflows(datapath, state.megaflows);
    if (megaflows && take(megaflows, performance.now() + WARM_MS)) {
      setImmediate(takeRest, megaflows);
    }
  };
}

export function donorHooks(household: Household): DonorHooks {
  const { reconciler, log } = household;
  return {
    log,
    state: () => stateOf(household),
    revision: () => revisionOf(reconciler),
    conntrackFd: () => household.conntrackFd,
    release: async () => {
      await household.hold();
      return reconciler.handOver();
    },
    ledger: () => [...reconciler.bridges.values()].map(takeLedger),
    done: (pid) => {
      reconciler.forget();
      household.end(pid);
    },
    resume: async (devices, state, ledger) => {
      reconciler.forget();
      await install(household, state, devices, ledger);
      household.unhold();
    },
  };
}

/** Bridges of a saved state with the devices that were released. */
async function install(
  { datapath, reconciler, intent, log }: Household,
  state: State,
  devices: Map<string, Bequest>,
  ledger: readonly Ledger[] | Promise<readonly Ledger[]>,
  prepared?: Awaited<ReturnType<Reconciler['prepare']>>,
): Promise<void> {
  const wanted = await intent();
  const rules = prepared ?? (await reconciler.prepare(wanted, state.bridges));
  const startMs = performance.now();
  const megaflows = state.megaflows && restoreMegaflows(datapath, state.megaflows);
  const goOn = reconciler.inherit(devices);
  await reconciler.apply(wanted, async () => {
    for (const one of await ledger) {
      const unit = reconciler.bridges.get(one.name);
      if (unit) applyLedger(unit, rules.get(one.name) ?? [], one);
    }
    const more = megaflows && take(megaflows, performance.now() + WARM_MS);
    // Only now: a guest's first packets need the main thread, which had other things to do.
    goOn();
    log.info(
      `hand-over: ports are in service after ${(performance.now() - startMs).toFixed(1)} ms`,
    );
    if (more) setImmediate(takeRest, megaflows);
  });
  // Of ports that the database does not know any more.
  for (const { fds } of devices.values()) for (const fd of fds) closeFd(fd);
  devices.clear();
}

/** Goes on until `untilMs`. True: there is more. */
function take(megaflows: Generator<number>, untilMs: number): boolean {
  while (!megaflows.next().done) if (performance.now() >= untilMs) return true;
  return false;
}

/** The rest, while upcalls are handled, too. */
function takeRest(megaflows: Generator<number>): void {
  if (take(megaflows, performance.now() + WARM_SLICE_MS)) setImmediate(takeRest, megaflows);
}

/** Nothing was given or taken: whoever served before serves. */
export class NotTakenOver extends Error {}

/** What the database asks for. Rejects when it says nothing for so long: the ports of the other daemon would be lost. */
async function intentWithin({ intent }: Household, patienceMs: number): Promise<SwitchIntent> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      const text = `the database has given no configuration for ${patienceMs / 1000} s`;
      reject(new NotTakenOver(`not taking over: ${text}; the running daemon goes on`));
    }, patienceMs);
  });
  try {
    return await Promise.race([intent(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Takes over. Resolves when the other daemon is gone; rejects if it was before anything was handed over, or if there is no
 * configuration to follow for `patienceMs`.
 */
export async function succeed(household: Household, heir: Heir, patienceMs: number): Promise<void> {
  const { engine, reconciler, log } = household;
  await household.hold();
  const wanted = await intentWithin(household, patienceMs);
  for (;;) {
    const prepared = await reconciler.prepare(wanted, heir.state.bridges);
    const { megaflows } = heir.state;
    if (megaflows) reconciler.rehearse(wanted, megaflows, REHEARSAL_MS);
    const goods = await heir.take();
    if (goods === undefined) continue;
    if (goods.conntrackFd >= 0) {
      engine.adoptConntrack(goods.conntrackFd);
      closeFd(household.conntrackFd);
      household.conntrackFd = goods.conntrackFd;
    } else log.warn('hand-over: connections are laid out differently: they are picked up anew');
    await install(household, heir.state, goods.devices, heir.ledger(), prepared);
    await heir.taken();
    household.unhold();
    return;
  }
}
