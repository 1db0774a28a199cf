// Random whole messages that a wire version has, flow-mods aside.

import fc from 'fast-check';
import type { GroupSelection, Message } from '../../src/wire/openflow/messages.ts';
import { inPortMatch } from '../../src/wire/openflow/packetOut.ts';
import type { Continuation, OfVersion } from '../../src/wire/openflow/types.ts';
import {
  actionFor,
  actionsFor,
  bytes,
  flowModFor,
  matchFor,
  port,
  u8,
  u16,
  u32,
  u64,
} from './openflowArbitraries.ts';

const text = (max: number): fc.Arbitrary<string> =>
  fc.string({ maxLength: max - 1, unit: fc.constantFrom(...'abcXYZ019-_. ') });
const count = fc.nat(2 ** 40);
const durationMs = fc.nat(2 ** 31);
const realPort = fc.nat(0xfeff);
const role = fc.constantFrom('other' as const, 'primary' as const, 'secondary' as const);
const t = <T extends string>(type: T): fc.Arbitrary<T> => fc.constant(type);

function portDesc(version: OfVersion) {
  const speeds = version > 1;
  const link = version > 1 ? fc.nat(0xffff) : fc.nat(0x7f);
  return fc
    .record({
      port,
      hwAddr: bytes(6, 6),
      name: text(16),
      config: fc.constantFrom(0, 1, 4, 0x20, 0x40, 0x65),
      state: fc.constantFrom(0, 1),
      curr: link,
      advertised: link,
      supported: link,
      peer: link,
      currSpeed: u32,
      maxSpeed: u32,
    })
    .map((p) => {
      if (speeds) return p;
      // OpenFlow 1.0 has the speed in the feature bits only.
      return { ...p, curr: 0x40, supported: 0x10, currSpeed: 10_000_000, maxSpeed: 1_000_000 };
    });
}

function portStats(version: OfVersion) {
  const names =
    version >= 5 ? fc.option(fc.dictionary(text(20), count, { minKeys: 1 })) : fc.constant(null);
  return fc
    .record({
      port,
      rxPackets: count,
      txPackets: count,
      rxBytes: count,
      txBytes: count,
      rxDropped: count,
      txDropped: fc.constant(-1),
      rxErrors: count,
      txErrors: count,
      rxFrameErr: count,
      rxOverErr: count,
      rxCrcErr: count,
      collisions: count,
      durationMs: version >= 4 ? durationMs : fc.constant(0),
      custom: names,
    })
    .map(({ custom, ...s }) => (custom === null ? s : { ...s, custom: { ...custom } }));
}

function features(version: OfVersion): fc.Arbitrary<Message> {
  const since = (v: number) => (version >= v ? fc.boolean() : fc.constant(false));
  return fc.record({
    type: t('features_reply'),
    features: fc.record({
      datapathId: u64,
      nBuffers: u32,
      nTables: u8,
      auxiliaryId: version >= 4 ? u8 : fc.constant(0),
      flowStats: fc.boolean(),
      tableStats: fc.boolean(),
      portStats: fc.boolean(),
      queueStats: fc.boolean(),
      groupStats: since(2),
      arpMatchIp: version <= 2 ? fc.boolean() : fc.constant(false),
      bundles: since(5),
      flowMonitoring: since(5),
      ports: fc.array(portDesc(version), { maxLength: version < 4 ? 3 : 0 }),
    }),
  });
}

function flowStats(version: OfVersion, nxt: boolean): fc.Arbitrary<Message> {
  const flag = (v: number) => (version >= v ? fc.boolean() : fc.constant(false));
  const ages = nxt ? fc.integer({ min: -1, max: 65533 }) : fc.constant(-1);
  const entry = fc.record({
    table: u8,
    match: nxt ? matchFor(3) : matchFor(version),
    priority: u16,
    cookie: u64,
    durationMs,
    idleTimeout: u16,
    hardTimeout: u16,
    idleAge: version >= 6 ? fc.integer({ min: -1, max: 1000 }) : ages,
    hardAge: ages,
    importance: version >= 5 ? u16 : fc.constant(0),
    flags: fc.record({
      sendFlowRem: flag(4),
      checkOverlap: flag(4),
      resetCounts: flag(4),
      noPktCounts: flag(4),
      noBytCounts: flag(4),
    }),
    packets: u64,
    bytes: u64,
    actions: actionsFor(version),
  });
  return fc.record({
    type: t('flow_stats_reply'),
    nxt: fc.constant(nxt),
    entries: fc.array(entry, { maxLength: 3 }),
  });
}

function flowStatsRequests(version: OfVersion, nxt: boolean): fc.Arbitrary<Message> {
  const cookies = version > 1 || nxt;
  const request = (aggregate: boolean) =>
    fc
      .record({
        aggregate: fc.constant(aggregate),
        table: u8,
        match: nxt ? matchFor(3) : matchFor(version),
        cookie: cookies ? u64 : fc.constant(0n),
        cookieMask: cookies ? u64 : fc.constant(0n),
        outPort: port,
        outGroup: version > 1 ? u32 : fc.constant(0xffffffff),
      })
      .map((r) => (nxt ? { ...r, cookie: r.cookie & r.cookieMask } : r));
  return fc.oneof(
    fc.record({
      type: t('flow_stats_request'),
      nxt: fc.constant(nxt),
      request: request(false),
    }),
    fc.record({ type: t('aggregate_request'), nxt: fc.constant(nxt), request: request(true) }),
    fc.record({
      type: t('aggregate_reply'),
      nxt: fc.constant(nxt),
      packets: u64,
      bytes: u64,
      flows: u32,
    }),
  );
}

/** A paused pipeline. Each rule's actions come behind the note whose they are. */
function continuation(version: OfVersion): fc.Arbitrary<Continuation> {
  const actions = fc.array(actionFor(version), { minLength: 1, maxLength: 4 });
  const rule = fc.record({ table: u8, cookie: u64, actions });
  return fc
    .record({
      bridge: bytes(16, 16),
      stack: fc.array(bytes(1, 128), { maxLength: 3 }),
      mirrors: u32,
      conntracked: fc.boolean(),
      rules: fc.array(rule, { maxLength: 3 }),
      actionSet: fc.array(actionFor(version), { maxLength: 2 }),
      odpPort: u32,
    })
    .map(({ rules, ...rest }) => ({
      ...rest,
      actions: rules.flatMap(({ table, cookie, actions }) => [
        { type: 'unroll_xlate' as const, table, cookie },
        ...actions,
      ]),
    }));
}

function packetIns(version: OfVersion): fc.Arbitrary<Message> {
  const reasons = ['no_match', 'action', 'invalid_ttl'] as const;
  const base = {
    totalLen: fc.integer({ min: 100, max: 60000 }),
    reason: fc.constantFrom(...reasons),
    data: bytes(1, 90),
  };
  const inPort = realPort.map(inPortMatch);
  const none = fc.constant((1n << 64n) - 1n);
  const standard = fc.record({
    ...base,
    bufferId: u32,
    table: version === 1 ? fc.constant(0xff) : u8,
    cookie: version >= 4 ? u64 : none,
    match: version <= 2 ? inPort : matchFor(version),
  });
  const nxt = fc.record({ ...base, bufferId: u32, table: u8, cookie: u64, match: matchFor(3) });
  const nxt2 = fc
    .record({
      ...base,
      bufferId: fc.constant(0xffffffff),
      table: u8,
      cookie: u64,
      match: matchFor(version < 3 ? 3 : version),
      userdata: fc.option(bytes(1, 30)),
      continuation: fc.option(continuation(version)),
    })
    .map(({ userdata, continuation, ...p }) => ({
      ...p,
      ...(userdata === null ? {} : { userdata }),
      ...(continuation === null ? {} : { continuation }),
    }));
  return fc.oneof(
    fc.record({ type: t('packet_in'), format: t('standard'), packetIn: standard }),
    fc.record({ type: t('packet_in'), format: t('nxt_packet_in'), packetIn: nxt }),
    fc.record({ type: t('packet_in'), format: t('nxt_packet_in2'), packetIn: nxt2 }),
    fc.record({ type: t('resume'), packetIn: nxt2 }),
  );
}

function packetOut(version: OfVersion): fc.Arbitrary<Message> {
  return fc
    .record({
      inPort: fc.oneof(realPort, fc.constantFrom(0xfffffffe, 0xfffffffd, 0xffffffff)),
      actions: fc.array(actionFor(version), { maxLength: 4 }),
      data: bytes(0, 80),
    })
    .map((p) => ({
      type: 'packet_out',
      packetOut: { ...p, bufferId: 0xffffffff, match: inPortMatch(p.inPort) },
    }));
}

function flowRemoved(version: OfVersion, nxt: boolean): fc.Arbitrary<Message> {
  const reasons = ['idle_timeout', 'hard_timeout', 'delete', 'group_delete'] as const;
  return fc.record({
    type: t('flow_removed'),
    nxt: fc.constant(nxt),
    flowRemoved: fc.record({
      match: nxt ? matchFor(3) : matchFor(version),
      cookie: u64,
      priority: u16,
      reason: fc.constantFrom(...reasons),
      table: nxt ? fc.nat(254) : version === 1 ? fc.constant(0xff) : u8,
      durationMs,
      idleTimeout: u16,
      hardTimeout: nxt || version === 1 ? fc.constant(0) : u16,
      packets: u64,
      bytes: u64,
    }),
  });
}

function tables(version: OfVersion): fc.Arbitrary<Message>[] {
  const stats = fc.record({
    table: u8,
    name: version >= 4 ? fc.constant('') : text(32),
    activeCount: u32,
    lookupCount: u64,
    matchedCount: u64,
    maxEntries: version >= 4 ? fc.constant(0) : u32,
  });
  const arbs: fc.Arbitrary<Message>[] = [
    fc.record({ type: t('table_stats_reply'), tables: fc.array(stats, { maxLength: 4 }) }),
  ];
  if (version >= 2) arbs.push(tableMod(version));
  if (version >= 4) {
    const feature = fc
      .record({
        table: fc.nat(254),
        name: text(32),
        maxEntries: u32,
        metadataMatch: u64,
        metadataWrite: u64,
        eviction: version >= 5 ? fc.boolean() : fc.constant(false),
        vacancyEvents: version >= 5 ? fc.boolean() : fc.constant(false),
        missConfig: fc.constant(0),
      })
      .map((f) => ({ ...f, nTables: Math.max(f.table + 1, 254) }));
    arbs.push(
      fc.record({ type: t('table_features_reply'), tables: fc.array(feature, { maxLength: 2 }) }),
    );
  }
  if (version >= 5) {
    const desc = fc.record({
      table: u8,
      eviction: fc.boolean(),
      evictionFlags: u32,
      vacancy: fc.option(fc.record({ downPercent: u8, upPercent: u8, nowPercent: u8 }), {
        nil: undefined,
      }),
    });
    const reason = fc.constantFrom('down' as const, 'up' as const);
    arbs.push(fc.record({ type: t('table_status'), reason, desc }));
    arbs.push(fc.record({ type: t('table_desc_reply'), tables: fc.array(desc, { maxLength: 3 }) }));
  }
  return arbs;
}

function tableMod(version: OfVersion): fc.Arbitrary<Message> {
  const mod = { type: t('table_mod'), table: u8 };
  const none = fc.constant(undefined);
  if (version < 5) return fc.record({ ...mod, config: u32, evictionFlags: none, vacancy: none });
  const percents = fc.tuple(fc.nat(100), fc.nat(100)).map((two) => two.sort((a, b) => a - b));
  const vacancy = percents.map(([downPercent = 0, upPercent = 0]) => ({ downPercent, upPercent }));
  return fc
    .record({
      ...mod,
      evictionFlags: fc.option(u32, { nil: undefined }),
      vacancy: fc.option(vacancy),
    })
    .map(({ vacancy, ...rest }) => ({
      ...rest,
      config: vacancy === null ? 4 : 8,
      vacancy: vacancy ?? undefined,
    }));
}

function queues(version: OfVersion): fc.Arbitrary<Message>[] {
  const stats = fc.record({
    port,
    queue: u32,
    txBytes: u64,
    txPackets: u64,
    txErrors: u64,
    durationMs: version >= 4 ? durationMs : fc.constant(0),
  });
  const replyPort = version >= 5 ? fc.constant(0xffffffff) : realPort;
  const desc = (own: number) =>
    fc
      .record({ port: realPort, queue: u32, minRate: fc.option(u16), maxRate: fc.option(u16) })
      .map(({ minRate, maxRate, ...q }) => ({
        ...q,
        port: version < 3 ? own : q.port,
        ...(minRate === null ? {} : { minRate }),
        ...(maxRate === null ? {} : { maxRate }),
      }));
  return [
    fc.record({ type: t('queue_stats_reply'), queues: fc.array(stats, { maxLength: 3 }) }),
    fc.record({ type: t('queue_stats_request'), port: realPort, queue: u32 }),
    fc.record({
      type: t('queue_desc_request'),
      port: realPort,
      queue: version >= 5 ? u32 : fc.constant(0xffffffff),
    }),
    replyPort.chain((own) =>
      fc.record({
        type: t('queue_desc_reply'),
        port: fc.constant(own),
        queues: fc.array(desc(own), { maxLength: 3 }),
      }),
    ),
  ];
}

function monitors(version: OfVersion): fc.Arbitrary<Message>[] {
  const inMonitor = version < 4 ? matchFor(3) : matchFor(version);
  const request = fc
    .record({
      id: u32,
      flags: fc.record({
        initial: fc.boolean(),
        add: fc.constant(true),
        delete: fc.boolean(),
        modify: fc.boolean(),
        actions: fc.boolean(),
        own: version < 5 ? fc.boolean() : fc.constant(false),
      }),
      onlyOwn: version >= 5 ? fc.boolean() : fc.constant(false),
      outPort: port,
      outGroup: version >= 5 ? u32 : fc.constant(0xffffffff),
      table: u8,
      match: inMonitor,
    })
    .map((r) => ({ ...r, command: 'add' as const, noAbbrev: r.flags.own }));
  const flow = fc.record({
    table: u8,
    priority: u16,
    idleTimeout: u16,
    hardTimeout: u16,
    cookie: u64,
    match: inMonitor,
    actions: version < 4 ? fc.array(actionFor(version), { maxLength: 3 }) : actionsFor(version),
  });
  const update = fc.oneof(
    fc.record({ event: t('added'), flow }),
    fc.record({ event: t('modified'), flow }),
    fc.record({ event: t('removed'), flow, reason: t('delete') }),
    fc.record({ event: t('abbrev'), xid: u32 }),
  );
  const arbs: fc.Arbitrary<Message>[] = [
    fc.record({
      type: t('flow_monitor_request'),
      requests: fc.array(request, { minLength: 1, maxLength: 2 }),
    }),
    fc.record({ type: t('flow_monitor_reply'), updates: fc.array(update, { maxLength: 4 }) }),
  ];
  if (version < 5)
    arbs.push(
      fc.record({ type: t('flow_monitor_cancel'), id: u32 }),
      fc.constantFrom<Message>({ type: 'flow_monitor_paused' }, { type: 'flow_monitor_resumed' }),
    );
  return arbs;
}

function bundles(version: OfVersion): fc.Arbitrary<Message>[] {
  if (version < 4) return [];
  return [
    fc.record({
      type: t('bundle_control'),
      bundleId: u32,
      control: fc.constantFrom(
        'open_request' as const,
        'open_reply' as const,
        'commit_request' as const,
      ),
      flags: u16,
    }),
    fc.record({
      type: t('bundle_add'),
      bundleId: u32,
      flags: u16,
      xid: fc.constant(0x12345678),
      message: flowModFor(version).map((flowMod) => ({
        type: 'flow_mod' as const,
        nxt: false,
        flowMod,
      })),
    }),
  ];
}

function asyncs(version: OfVersion): fc.Arbitrary<Message>[] {
  if (version < 4) return [];
  const masks = fc.record({
    // Without bit 0, which is widened to the kinds of a miss.
    packetIn: fc.constantFrom(0, 2, 4, 6),
    portStatus: fc.nat(7),
    flowRemoved: fc.nat(0x3f),
    roleStatus: version >= 5 ? fc.nat(7) : fc.constant(0),
    tableStatus: version >= 5 ? fc.constantFrom(0, 8, 24) : fc.constant(0),
    requestForward: version >= 5 ? fc.nat(3) : fc.constant(0),
  });
  return [
    fc.record({ type: t('get_async_reply'), masks: fc.tuple(masks, masks) }),
    fc.constant({ type: 'get_async_request' }),
  ];
}

function nicira(version: OfVersion): fc.Arbitrary<Message>[] {
  const mapping = fc.record({
    optionClass: u16,
    optionType: u8,
    optionLen: fc.constantFrom(4, 8, 124),
    index: fc.nat(63),
  });
  const partialTuple = (bytes: number) =>
    fc.record({
      src: fc.option(fc.uint8Array({ minLength: bytes, maxLength: bytes }), { nil: undefined }),
      dst: fc.option(fc.uint8Array({ minLength: bytes, maxLength: bytes }), { nil: undefined }),
      srcPort: u16,
      dstPort: u16,
      icmpId: u16,
      icmpType: u8,
      icmpCode: u8,
    });
  /** No address is all zeros, which means "any", and no IPv6 address a mapped IPv4 one. */
  const ctFlushMatch = fc
    .constantFrom(4, 16)
    .chain((bytes) =>
      fc.record({
        proto: fc.integer({ min: 1, max: 255 }),
        orig: partialTuple(bytes),
        reply: partialTuple(bytes),
      }),
    )
    .map((match) => {
      for (const { src, dst } of [match.orig, match.reply]) {
        for (const address of [src, dst]) if (address !== undefined) address[0]! |= 1;
      }
      return match;
    });

  const mappings = fc.array(mapping, { maxLength: 4 });
  const arbs: fc.Arbitrary<Message>[] = [
    fc.record({
      type: t('set_packet_in_format'),
      format: fc.constantFrom(
        'standard' as const,
        'nxt_packet_in' as const,
        'nxt_packet_in2' as const,
      ),
    }),
    fc.record({ type: t('set_controller_id'), controllerId: u16 }),
    fc.record({ type: t('tlv_table_mod'), command: t('add'), mappings }),
    fc.record({ type: t('tlv_table_reply'), maxSpace: u32, maxFields: u16, mappings }),
    fc.constant({ type: 'tlv_table_request' }),
    fc.record({ type: t('ct_flush_zone'), zone: u16 }),
    fc.record({ type: t('ct_flush'), zone: u16 }),
    fc.record({ type: t('ct_flush'), zone: fc.constant(-1), match: ctFlushMatch }),
  ];
  if (version === 1)
    arbs.push(
      fc.constantFrom<Message>(
        { type: 'set_flow_format', format: 'nxm' },
        { type: 'set_flow_format', format: 'openflow10' },
        { type: 'flow_mod_table_id', enable: true },
        { type: 'flow_age' },
      ),
    );
  return arbs;
}

function roles(version: OfVersion): fc.Arbitrary<Message>[] {
  const arbs: fc.Arbitrary<Message>[] = [
    fc.record({ type: t('role_request'), role, nxt: fc.constant(true) }),
    fc.record({ type: t('role_reply'), role, nxt: fc.constant(true) }),
  ];
  const generationId = u64.map((n) => n >> 1n);
  if (version >= 3)
    arbs.push(
      fc.record({ type: t('role_request'), role, nxt: fc.constant(false), generationId }),
      fc.record({ type: t('role_reply'), role, nxt: fc.constant(false), generationId }),
    );
  if (version >= 4)
    arbs.push(fc.record({ type: t('role_status'), role, reason: fc.nat(2), generationId }));
  return arbs;
}

/** Buckets of a group of this type that the version can say. */
function buckets(version: OfVersion, groupType: number) {
  const isNew = version >= 6 || version === 1;
  const none = fc.constant(0xffffffff);
  const watch = groupType === 1 || groupType === 3;
  const one = fc.record({
    weight: groupType === 1 ? u16 : fc.constant(0),
    watchPort: watch ? fc.oneof(realPort, none) : none,
    // A bucket of a fast failover group watches something.
    watchGroup: watch ? fc.nat(0xffff) : none,
    actions: fc.array(actionFor(version), { maxLength: 3 }),
  });
  const list = groupType === 2 ? { minLength: 1, maxLength: 1 } : { maxLength: 4 };
  return fc
    .array(one, list)
    .map((all) => all.map((bucket, i) => ({ id: isNew ? i * 7 : i, ...bucket })));
}

const selection: fc.Arbitrary<GroupSelection | undefined> = fc.oneof(
  fc.constant(undefined),
  fc.record({
    method: t('hash'),
    param: u64,
    fields: fc.constantFrom<GroupSelection['fields']>(
      [],
      [{ field: 'ip_src', mask: Uint8Array.of(255, 255, 0, 0) }],
      [
        { field: 'eth_dst', mask: new Uint8Array(6).fill(0xff) },
        { field: 'tcp_src', mask: Uint8Array.of(0xff, 0xff) },
      ],
    ),
  }),
  fc.record({
    method: t('dp_hash'),
    param: u64,
    fields: fc.constant<GroupSelection['fields']>([]),
  }),
);

function groupDesc(version: OfVersion) {
  const isNew = version >= 6 || version === 1;
  return fc.nat(3).chain((groupType) =>
    fc
      .record({
        group: u32,
        groupType: fc.constant(groupType),
        buckets: buckets(version, groupType),
        selection: isNew && groupType === 1 ? selection : fc.constant(undefined),
      })
      .map(({ selection: how, ...desc }) =>
        how === undefined ? desc : { ...desc, selection: how },
      ),
  );
}

const counters = fc.record({ packets: u64, bytes: u64 });
const band = fc.oneof(
  fc.record({ type: fc.constant(1), rate: u32, burstSize: u32, precLevel: fc.constant(0) }),
  fc.record({ type: fc.constant(2), rate: u32, burstSize: u32, precLevel: u8 }),
);

function groups(version: OfVersion): fc.Arbitrary<Message>[] {
  const nxt = version === 1 ? { nxt: true as const } : {};
  const stats = fc.record({
    group: u32,
    refCount: u32,
    packets: u64,
    bytes: u64,
    durationMs: version === 2 || version === 3 ? fc.constant(0) : durationMs,
    buckets: fc.array(counters, { maxLength: 3 }),
  });
  return [
    fc.tuple(fc.constantFrom(0, 1, 0x8000), groupDesc(version)).map(([command, desc]) => ({
      type: 'group_mod' as const,
      command,
      commandBucket: 0xffffffff,
      ...desc,
    })),
    u32.map((group) => ({ type: 'group_stats_request' as const, group, ...nxt })),
    fc
      .array(stats, { maxLength: 3 })
      .map((list) => ({ type: 'group_stats_reply' as const, groups: list, ...nxt })),
    fc
      .array(groupDesc(version), { maxLength: 3 })
      .map((list) => ({ type: 'group_desc_reply' as const, groups: list, ...nxt })),
  ];
}

function meters(version: OfVersion): fc.Arbitrary<Message>[] {
  const arbs = groups(version);
  if (version >= 3)
    arbs.push(
      fc.record({
        type: t('group_features_reply'),
        features: fc.record({
          types: u32,
          capabilities: u32,
          maxGroups: fc.array(u32, { minLength: 4, maxLength: 4 }),
          actions: fc.array(u32, { minLength: 4, maxLength: 4 }),
        }),
      }),
    );
  if (version >= 4) {
    const config = {
      meterId: u32,
      flags: fc.constantFrom(0, 1, 2, 5, 10, 13),
      bands: fc.array(band, { maxLength: 4 }),
    };
    arbs.push(
      fc.record({ type: t('meter_mod'), command: fc.nat(1), ...config }),
      fc.record({ type: t('meter_stats_request'), meterId: u32 }),
      fc.record({
        type: t('meter_stats_reply'),
        meters: fc.array(
          fc.record({
            meterId: u32,
            flowCount: u32,
            packets: u64,
            bytes: u64,
            durationMs,
            bands: fc.array(counters, { maxLength: 3 }),
          }),
          { maxLength: 3 },
        ),
      }),
      fc.record({
        type: t('meter_config_reply'),
        meters: fc.array(fc.record(config), { maxLength: 3 }),
      }),
      fc.record({
        type: t('meter_features_reply'),
        features: fc.record({
          maxMeters: u32,
          bandTypes: u32,
          capabilities: u32,
          maxBands: u8,
          maxColor: u8,
        }),
      }),
    );
  }
  return arbs;
}

export function messageFor(version: OfVersion): fc.Arbitrary<Message> {
  const simple: Message[] = [
    { type: 'features_request' },
    { type: 'get_config_request' },
    { type: 'barrier_request' },
    { type: 'barrier_reply' },
    { type: 'desc_request' },
    { type: 'table_stats_request' },
  ];
  const arbs: fc.Arbitrary<Message>[] = [
    fc.constantFrom(...simple),
    fc.oneof(fc.constant<Message>({ type: 'hello' }), fc.record({ type: t('hello'), bitmap: u32 })),
    fc.record({ type: t('echo_request'), data: bytes(0, 40) }),
    fc.record({ type: t('echo_reply'), data: bytes(0, 40) }),
    features(version),
    fc.record({ type: t('get_config_reply'), flags: u16, missSendLen: u16 }),
    fc.record({ type: t('set_config'), flags: u16, missSendLen: u16 }),
    packetIns(version),
    packetOut(version),
    flowRemoved(version, false),
    flowRemoved(version, true),
    fc.record({
      type: t('port_status'),
      reason: fc.constantFrom('add' as const, 'delete' as const, 'modify' as const),
      port: portDesc(version),
    }),
    fc.record({
      type: t('port_mod'),
      portMod: fc.record({
        port: realPort,
        hwAddr: bytes(6, 6),
        config: fc.constantFrom(0, 1, 0x20),
        mask: fc.constantFrom(0, 1, 0x65),
        advertise: version > 1 ? fc.nat(0xffff) : fc.nat(0x7f),
      }),
    }),
    fc.record({
      type: t('desc_reply'),
      mfr: text(256),
      hw: text(256),
      sw: text(256),
      serial: text(32),
      dp: text(256),
    }),
    flowStats(version, false),
    flowStatsRequests(version, false),
    fc.record({ type: t('port_stats_request'), port }),
    fc.record({
      type: t('port_stats_reply'),
      ports: fc.array(portStats(version), { maxLength: 3 }),
    }),
    fc.record({ type: t('port_desc_reply'), ports: fc.array(portDesc(version), { maxLength: 3 }) }),
    ...tables(version),
    ...queues(version),
    ...monitors(version),
    ...bundles(version),
    ...asyncs(version),
    ...nicira(version),
    ...roles(version),
    ...meters(version),
  ];
  if (version === 1) arbs.push(flowStats(1, true), flowStatsRequests(1, true));
  return fc.oneof(...arbs);
}
