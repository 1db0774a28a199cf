// Schema of the _Server database, in which a server tells its clients what it serves
// (ovsdb-server(5)).

export const SERVER_SCHEMA = {
  name: '_Server',
  version: '1.2.0',
  cksum: '3009684573 744',
  tables: {
    Database: {
      columns: {
        name: { type: 'string' },
        model: {
          type: { key: { type: 'string', enum: ['set', ['standalone', 'clustered', 'relay']] } },
        },
        connected: { type: 'boolean' },
        leader: { type: 'boolean' },
        schema: { type: { key: 'string', min: 0, max: 1 } },
        cid: { type: { key: 'uuid', min: 0, max: 1 } },
        sid: { type: { key: 'uuid', min: 0, max: 1 } },
        index: { type: { key: 'integer', min: 0, max: 1 } },
      },
      isRoot: true,
    },
  },
} as const;
