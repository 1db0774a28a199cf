// The state machines of a port in the rapid spanning tree protocol: IEEE 802.1D-2004 §17.23 … §17.31. Each function looks
// at the conditions of one machine, does at most one transition, and says whether it did; rstp.ts runs them until none has
// anything to do. States and procedures are called what they are called there.

import {
  compareMessages,
  compareVectors,
  HELLO_TIME_S,
  MIGRATE_TIME_S,
  type RstpBridge,
  type RstpPort,
  type RstpTimes,
  sameSender,
  sameTimes,
} from './rstpPort.ts';

type Machine = <P>(port: RstpPort<P>, bridge: RstpBridge<P>) => boolean;

const rstpVersion = <P>({ settings }: RstpBridge<P>): boolean => settings.forceVersion >= 2;
const isUp = <P>({ role }: RstpPort<P>): boolean => role === 'Root' || role === 'Designated';

// ---- procedures and conditions that several machines use (§17.20, §17.21)

/** How long a port stays in a state that it must pass through. */
function forwardDelay<P>(port: RstpPort<P>): number {
  return port.sendRSTP ? port.designatedTimes.helloTime : port.designatedTimes.forwardDelay;
}

function allSynced<P>({ ports }: RstpBridge<P>): boolean {
  for (const { selected, role, selectedRole, updtInfo, synced } of ports.values()) {
    if (!selected || role !== selectedRole || updtInfo || !(synced || role === 'Root'))
      return false;
  }
  return true;
}

function reRooted<P>(port: RstpPort<P>, { ports }: RstpBridge<P>): boolean {
  for (const other of ports.values()) if (other !== port && other.rrWhile !== 0) return false;
  return true;
}

function setSyncTree<P>({ ports }: RstpBridge<P>): void {
  for (const port of ports.values()) port.sync = true;
}

function setTcPropTree<P>(from: RstpPort<P>, { ports }: RstpBridge<P>): void {
  for (const port of ports.values()) if (port !== from) port.tcProp = true;
}

export function newTcWhile<P>(port: RstpPort<P>, { rootTimes }: RstpBridge<P>): void {
  if (port.tcWhile !== 0) return;
  if (port.sendRSTP) {
    port.tcWhile = port.designatedTimes.helloTime + 1;
    port.newInfo = true;
  } else {
    port.tcWhile = rootTimes.maxAge + rootTimes.forwardDelay;
  }
}

// ---- §17.23, port receive

const portReceive: Machine = (port) => {
  if (!port.portEnabled) {
    if (!port.rcvdBPDU && port.edgeDelayWhile === MIGRATE_TIME_S) return false;
    port.rcvdBPDU = port.rcvdRSTP = port.rcvdSTP = port.rcvdMsg = false;
    port.edgeDelayWhile = MIGRATE_TIME_S;
    return true;
  }
  if (!port.rcvdBPDU || port.rcvdMsg) return false;
  if (port.received?.type === 'rst') port.rcvdRSTP = true;
  else port.rcvdSTP = true;
  port.operEdge = port.rcvdBPDU = false;
  port.rcvdMsg = true;
  port.edgeDelayWhile = MIGRATE_TIME_S;
  return true;
};

// ---- §17.24, port protocol migration

const portMigration: Machine = (port, bridge) => {
  const check = (): boolean => {
    port.migration = 'CHECKING';
    port.mcheck = false;
    port.sendRSTP = rstpVersion(bridge);
    port.mdelayWhile = MIGRATE_TIME_S;
    return true;
  };
  const sense = (): boolean => {
    port.migration = 'SENSING';
    port.rcvdRSTP = port.rcvdSTP = false;
    return true;
  };
  switch (port.migration) {
    case 'CHECKING':
      if (port.mdelayWhile === 0) return sense();
      return port.mdelayWhile !== MIGRATE_TIME_S && !port.portEnabled ? check() : false;
    case 'SELECTING_STP':
      return port.mdelayWhile === 0 || !port.portEnabled || port.mcheck ? sense() : false;
    case 'SENSING':
      if (!port.portEnabled || port.mcheck) return check();
      if (rstpVersion(bridge) && !port.sendRSTP && port.rcvdRSTP) return check();
      if (!port.sendRSTP || !port.rcvdSTP) return false;
      port.migration = 'SELECTING_STP';
      port.sendRSTP = false;
      port.mdelayWhile = MIGRATE_TIME_S;
      return true;
  }
};

// ---- §17.25, bridge detection: operEdge says which of its two states it is in

const bridgeDetection: Machine = (port) => {
  const { adminEdge, autoEdge } = port.settings;
  if (port.operEdge) {
    if (adminEdge || (port.portEnabled && autoEdge)) return false;
    port.operEdge = false;
    return true;
  }
  const silent = port.edgeDelayWhile === 0 && autoEdge && port.sendRSTP && port.proposing;
  if (!(!port.portEnabled && adminEdge) && !silent) return false;
  port.operEdge = true;
  return true;
};

// ---- §17.27, port information

type Info = 'superior' | 'repeated' | 'inferior' | 'not-designated' | 'other';

/** Reads the message (msgPriority, msgTimes), and says what it means. */
function rcvInfo<P>(port: RstpPort<P>): Info {
  const { received } = port;
  if (received === undefined || received.type === 'tcn') return 'other';
  const { message: m } = received;
  const seconds = (ms: number, min: number, max: number): number =>
    Math.min(Math.max(Math.round(ms / 1000), min), max);
  port.msgPriority = {
    root: m.rootId,
    cost: m.rootPathCost,
    bridge: m.bridgeId,
    port: m.portId,
    bridgePort: port.portId,
  };
  port.msgTimes = {
    messageAge: seconds(m.messageAgeMs, 0, 255),
    maxAge: seconds(m.maxAgeMs, 1, 40),
    helloTime: seconds(m.helloTimeMs, 1, 10),
    forwardDelay: seconds(m.forwardDelayMs, 1, 30),
  };
  const order = compareMessages(port.msgPriority, port.portPriority);
  if (received.type === 'config' || m.role === 'designated') {
    if (order < 0) return 'superior';
    if (order === 0) return sameTimes(port.msgTimes, port.portTimes) ? 'repeated' : 'superior';
    return sameSender(port.msgPriority, port.portPriority) ? 'superior' : 'inferior';
  }
  return m.role !== 'unknown' && order >= 0 ? 'not-designated' : 'other';
}

function recordProposal<P>(port: RstpPort<P>): void {
  const { received } = port;
  if (received?.type === 'rst' && received.message.role === 'designated') {
    if (received.message.proposal) port.proposed = true;
  }
}

function recordAgreement<P>(port: RstpPort<P>, bridge: RstpBridge<P>): void {
  const { received, settings } = port;
  const agrees = received?.type === 'rst' && received.message.agreement;
  port.agreed = rstpVersion(bridge) && settings.pointToPoint && agrees;
  if (port.agreed) port.proposing = false;
}

function setTcFlags<P>(port: RstpPort<P>): void {
  const { received } = port;
  if (received?.type === 'tcn') {
    port.rcvdTcn = true;
  } else if (received !== undefined) {
    if (received.message.topologyChange) port.rcvdTc = true;
    if (received.type === 'config' && received.message.topologyChangeAck) port.rcvdTcAck = true;
  }
}

function updtRcvdInfoWhile<P>(port: RstpPort<P>): void {
  const { messageAge, maxAge, helloTime } = port.portTimes;
  port.rcvdInfoWhile = messageAge + 1 <= maxAge ? 3 * helloTime : 0;
}

function receiveMessage<P>(port: RstpPort<P>, bridge: RstpBridge<P>): void {
  switch (rcvInfo(port)) {
    case 'superior': {
      const atLeastAsGood =
        port.infoIs === 'Received' && compareMessages(port.msgPriority, port.portPriority) <= 0;
      port.agreed = port.proposing = false;
      recordProposal(port);
      setTcFlags(port);
      port.agree = port.agree && atLeastAsGood;
      port.portPriority = port.msgPriority;
      port.portTimes = port.msgTimes;
      updtRcvdInfoWhile(port);
      port.infoIs = 'Received';
      port.reselect = true;
      port.selected = false;
      break;
    }
    case 'repeated':
      port.infoIs = 'Received';
      recordProposal(port);
      setTcFlags(port);
      recordAgreement(port, bridge);
      updtRcvdInfoWhile(port);
      break;
    case 'inferior':
      // Somebody thinks himself designated on this link, too, and does not hear us.
      if (port.received?.type === 'rst' && port.received.message.learning) {
        port.disputed = true;
        port.agreed = false;
      }
      break;
    case 'not-designated':
      recordAgreement(port, bridge);
      setTcFlags(port);
      break;
    case 'other':
      if (port.received?.type === 'tcn') setTcFlags(port);
      break;
  }
  port.rcvdMsg = false;
}

const portInformation: Machine = (port, bridge) => {
  if (!port.portEnabled && (port.infoIs !== 'Disabled' || port.rcvdMsg)) {
    port.information = 'DISABLED';
    port.rcvdMsg = false;
    port.proposing = port.proposed = port.agree = port.agreed = false;
    port.rcvdInfoWhile = 0;
    port.infoIs = 'Disabled';
    port.reselect = true;
    port.selected = false;
    return true;
  }
  const age = (): boolean => {
    port.information = 'AGED';
    port.infoIs = 'Aged';
    port.reselect = true;
    port.selected = false;
    return true;
  };
  if (port.information === 'DISABLED') return port.portEnabled ? age() : false;
  if (port.selected && port.updtInfo) {
    const same =
      port.infoIs === 'Mine' && compareVectors(port.designatedPriority, port.portPriority) <= 0;
    port.proposing = port.proposed = false;
    port.agreed = port.agreed && same;
    port.synced = port.synced && port.agreed;
    port.portPriority = port.designatedPriority;
    port.portTimes = port.designatedTimes;
    port.updtInfo = false;
    port.infoIs = 'Mine';
    port.newInfo = true;
    port.information = 'CURRENT';
    return true;
  }
  if (port.information === 'AGED' || port.updtInfo) return false;
  if (port.rcvdMsg) {
    receiveMessage(port, bridge);
    return true;
  }
  return port.infoIs === 'Received' && port.rcvdInfoWhile === 0 ? age() : false;
};

// ---- §17.29, port role transitions

function disabledPort<P>(port: RstpPort<P>): boolean {
  const maxAge = port.designatedTimes.maxAge;
  if (!port.settled) {
    if (port.learning || port.forwarding) return false;
    port.settled = true;
  } else if (port.fdWhile === maxAge && !port.sync && !port.reRoot && port.synced) {
    return false;
  }
  port.fdWhile = maxAge;
  port.synced = true;
  port.rrWhile = 0;
  port.sync = port.reRoot = false;
  return true;
}

function rootPort<P>(port: RstpPort<P>, bridge: RstpBridge<P>): boolean {
  if (port.proposed && !port.agree) {
    setSyncTree(bridge);
    port.proposed = false;
    return true;
  }
  if ((allSynced(bridge) && !port.agree) || (port.proposed && port.agree)) {
    port.proposed = port.sync = false;
    port.agree = port.newInfo = true;
    return true;
  }
  if (!port.forward && !port.reRoot) {
    for (const other of bridge.ports.values()) other.reRoot = true;
    return true;
  }
  const fast = rstpVersion(bridge) && port.rbWhile === 0 && reRooted(port, bridge);
  if ((port.fdWhile === 0 || fast) && !port.forward) {
    if (!port.learn) {
      port.fdWhile = forwardDelay(port);
      port.learn = true;
    } else {
      port.fdWhile = 0;
      port.forward = true;
    }
    return true;
  }
  if (port.reRoot && port.forward) {
    port.reRoot = false;
    return true;
  }
  if (port.rrWhile === port.designatedTimes.forwardDelay) return false;
  port.rrWhile = port.designatedTimes.forwardDelay;
  return true;
}

function designatedPort<P>(port: RstpPort<P>): boolean {
  if (!port.forward && !port.agreed && !port.proposing && !port.operEdge) {
    port.proposing = port.newInfo = true;
    // EdgeDelay.
    const { pointToPoint } = port.settings;
    port.edgeDelayWhile = pointToPoint ? MIGRATE_TIME_S : port.designatedTimes.maxAge;
    return true;
  }
  const quiet = (!port.learning && !port.forwarding) || port.agreed || port.operEdge;
  if ((quiet && !port.synced) || (port.sync && port.synced)) {
    port.rrWhile = 0;
    port.synced = true;
    port.sync = false;
    return true;
  }
  if (port.rrWhile === 0 && port.reRoot) {
    port.reRoot = false;
    return true;
  }
  const mustStop = (port.sync && !port.synced) || (port.reRoot && port.rrWhile !== 0);
  if ((mustStop || port.disputed) && !port.operEdge && (port.learn || port.forward)) {
    port.learn = port.forward = port.disputed = false;
    port.fdWhile = forwardDelay(port);
    return true;
  }
  const may = port.fdWhile === 0 || port.agreed || port.operEdge;
  if (!may || (port.rrWhile !== 0 && port.reRoot) || port.sync || port.forward) return false;
  if (!port.learn) {
    port.learn = true;
    port.fdWhile = forwardDelay(port);
  } else {
    port.forward = true;
    port.fdWhile = 0;
    port.agreed = port.sendRSTP;
  }
  return true;
}

function alternatePort<P>(port: RstpPort<P>, bridge: RstpBridge<P>): boolean {
  if (!port.settled) {
    if (port.learning || port.forwarding) return false;
    port.settled = true;
  } else if (port.proposed && !port.agree) {
    setSyncTree(bridge);
    port.proposed = false;
    return true;
  } else if ((allSynced(bridge) && !port.agree) || (port.proposed && port.agree)) {
    port.proposed = false;
    port.agree = port.newInfo = true;
    return true;
  } else if (port.role === 'Backup' && port.rbWhile !== 2 * HELLO_TIME_S) {
    port.rbWhile = 2 * HELLO_TIME_S;
    return true;
  } else if (
    port.fdWhile === forwardDelay(port) &&
    !port.sync &&
    !port.reRoot &&
    port.synced &&
    port.rrWhile === 0
  ) {
    return false;
  }
  port.fdWhile = forwardDelay(port);
  port.synced = true;
  port.rrWhile = 0;
  port.sync = port.reRoot = false;
  return true;
}

const roleTransitions: Machine = (port, bridge) => {
  if (!port.selected || port.updtInfo) return false;
  if (port.role !== port.selectedRole) {
    port.role = port.selectedRole;
    if (port.role === 'Root') {
      port.rrWhile = port.designatedTimes.forwardDelay;
    } else if (port.role !== 'Designated') {
      port.learn = port.forward = false;
      port.settled = false;
    }
    return true;
  }
  switch (port.role) {
    case 'Disabled':
      return disabledPort(port);
    case 'Root':
      return rootPort(port, bridge);
    case 'Designated':
      return designatedPort(port);
    default:
      return alternatePort(port, bridge);
  }
};

// ---- §17.30, port state transition

const stateTransition: Machine = (port) => {
  if (port.forwarding ? !port.forward : port.learning && !port.learn) {
    port.learning = port.forwarding = false;
    return true;
  }
  if (!port.learning && port.learn) {
    port.learning = true;
    return true;
  }
  if (port.learning && !port.forwarding && port.forward) {
    port.forwarding = true;
    return true;
  }
  return false;
};

// ---- §17.31, topology change

const topologyChange: Machine = (port, bridge) => {
  const told = port.rcvdTc || port.rcvdTcn || port.rcvdTcAck || port.tcProp;
  const forget = (): void => {
    port.rcvdTc = port.rcvdTcn = port.rcvdTcAck = port.tcProp = false;
  };
  switch (port.topology) {
    case 'INACTIVE':
      if (!port.learn || port.fdbFlush) return false;
      port.topology = 'LEARNING';
      forget();
      return true;
    case 'LEARNING':
      if (isUp(port) && port.forward && !port.operEdge) {
        newTcWhile(port, bridge);
        setTcPropTree(port, bridge);
        port.newInfo = true;
        port.topology = 'ACTIVE';
        return true;
      }
      if (told) {
        forget();
        return true;
      }
      if (isUp(port) || port.learn || port.learning) return false;
      port.fdbFlush = true;
      port.tcWhile = 0;
      port.tcAck = false;
      port.topology = 'INACTIVE';
      return true;
    case 'ACTIVE':
      if (!isUp(port) || port.operEdge) {
        port.topology = 'LEARNING';
        forget();
        return true;
      }
      if (port.rcvdTcn || port.rcvdTc) {
        if (port.rcvdTcn) newTcWhile(port, bridge);
        port.rcvdTcn = port.rcvdTc = false;
        if (port.role === 'Designated') port.tcAck = true;
        setTcPropTree(port, bridge);
        return true;
      }
      if (port.tcProp) {
        newTcWhile(port, bridge);
        port.fdbFlush = true;
        port.tcProp = false;
        return true;
      }
      if (!port.rcvdTcAck) return false;
      port.tcWhile = 0;
      port.rcvdTcAck = false;
      return true;
  }
};

/** In an order in which little has to be looked at twice. Transmission (§17.26) is rstp.ts's: it comes when all is quiet. */
export const MACHINES: readonly Machine[] = [
  portReceive,
  portMigration,
  bridgeDetection,
  portInformation,
  roleTransitions,
  stateTransition,
  topologyChange,
];

/** §17.21.25 for one port: the role that its information gives it. */
export function selectRole<P>(port: RstpPort<P>, bridge: RstpBridge<P>): void {
  switch (port.infoIs) {
    case 'Disabled':
      port.selectedRole = 'Disabled';
      return;
    case 'Aged':
      port.updtInfo = true;
      port.selectedRole = 'Designated';
      return;
    case 'Mine':
      port.selectedRole = 'Designated';
      if (
        compareVectors(port.portPriority, port.designatedPriority) !== 0 ||
        !sameTimes(port.portTimes, port.designatedTimes)
      ) {
        port.updtInfo = true;
      }
      return;
    case 'Received':
      port.updtInfo = false;
      if (port === bridge.rootPort) {
        port.selectedRole = 'Root';
      } else if (compareMessages(port.designatedPriority, port.portPriority) < 0) {
        port.selectedRole = 'Designated';
        port.updtInfo = true;
      } else {
        const own = port.portPriority.bridge === bridge.settings.bridgeId;
        port.selectedRole = own ? 'Backup' : 'Alternate';
      }
  }
}

/** Times that a root port's messages bring, one bridge further. */
export function agedTimes(times: RstpTimes): RstpTimes {
  return { ...times, messageAge: times.messageAge + 1 };
}
