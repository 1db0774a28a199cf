// SSL connections with real keys: ovs-ofctl at a pssl: service, a controller with node:tls at an ssl: target, and the
// bootstrap of the CA certificate. Needs openssl for the keys.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { FakeBridge } from '../unit/fakeBridge.ts';
import { OfClient } from '../unit/ofClient.ts';
import { OvsSide } from './realOvs.ts';

const NO_LOG = { dbg() {}, info() {}, warn() {}, err() {} };
const KEY = '-newkey rsa:2048 -nodes -sha256';

let side: OvsSide;
let connmgr: Connmgr;
const file = (name: string) => join(side.dir, name);

async function sh(command: string): Promise<void> {
  const { status, stderr } = await side.run(command);
  assert.equal(status, 0, stderr);
}

/** NAME.key and NAME.pem, signed by CA.pem. */
async function certificate(name: string, ca: string): Promise<void> {
  await sh(`openssl req ${KEY} -subj /CN=${name} -keyout ${name}.key -out ${name}.csr 2>&1`);
  await sh(
    `openssl x509 -req -in ${name}.csr -CA ${ca}.pem -CAkey ${ca}.key -CAcreateserial ` +
      `-days 2 -sha256 -out ${name}.pem 2>&1`,
  );
}

async function authority(name: string): Promise<void> {
  await sh(
    `openssl req -x509 ${KEY} -days 2 -subj /CN=${name} ` +
      `-addext basicConstraints=critical,CA:TRUE -keyout ${name}.key -out ${name}.pem 2>&1`,
  );
}

before(async () => {
  side = await OvsSide.create('ssl');
  await authority('ca');
  await authority('other');
  await certificate('switch', 'ca');
  await certificate('controller', 'ca');
  await certificate('stranger', 'other');
  const bridge = new FakeBridge();
  connmgr = new Connmgr({ bridge, runDir: side.dir, log: NO_LOG });
});

after(async () => {
  connmgr?.close();
  await side?.[Symbol.asyncDispose]();
});

function configure(targets: string[], caCert = file('ca.pem'), bootstrapCaCert = false) {
  return connmgr.configure({
    controllers: targets.map((target) => ({ target, maxBackoffMs: 1000 })),
    failMode: 'secure',
    ssl: {
      privateKey: file('switch.key'),
      certificate: file('switch.pem'),
      caCert,
      bootstrapCaCert,
    },
  });
}

/** A controller that shows its certificate and the CA's. */
async function listen(name: string, connected: (socket: TLSSocket) => void): Promise<Server> {
  const server = createServer(
    {
      key: readFileSync(file(`${name}.key`)),
      cert: Buffer.concat([readFileSync(file(`${name}.pem`)), readFileSync(file('ca.pem'))]),
      ca: readFileSync(file('ca.pem')),
      requestCert: true,
    },
    connected,
  );
  server.on('tlsClientError', () => {});
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

describe('pssl:', () => {
  it('serves ovs-ofctl with a certificate of the CA, nobody else', async () => {
    await configure(['pssl:0:127.0.0.1']);
    const address = connmgr.listenAddress('pssl:0:127.0.0.1');
    assert.match(address ?? '', /^ssl:127/);
    const show = (who: string) =>
      side.run(`ovs-ofctl -p ${who}.key -c ${who}.pem -C ca.pem -vconsole:off show ${address}`);
    const good = await show('controller');
    assert.equal(good.status, 0, good.stderr);
    assert.match(good.stdout, /dpid:0000112233445566/);
    assert.notEqual((await show('stranger')).status, 0);
  });
});

describe('ssl:', () => {
  it('connects to a controller whose certificate the CA has signed', async () => {
    const sockets: TLSSocket[] = [];
    const server = await listen('controller', (socket) => sockets.push(socket));
    const { port } = server.address() as { port: number };
    try {
      await configure([`ssl:127.0.0.1:${port}`]);
      for (let i = 0; i < 2000 && sockets.length === 0; i++) await sleep(10);
      const peer = new OfClient(sockets[0], 4);
      peer.send({ type: 'hello' });
      await peer.expect('hello');
      await peer.request({ type: 'features_request' }, 'features_reply');
      assert.equal(connmgr.status().get(`ssl:127.0.0.1:${port}`)?.isConnected, true);
    } finally {
      await configure([]);
      server.close();
      for (const socket of sockets) socket.destroy();
    }
  });

  it('learns the CA certificate from the first controller if it may', async () => {
    const sockets: TLSSocket[] = [];
    const server = await listen('controller', (socket) => sockets.push(socket));
    const { port } = server.address() as { port: number };
    const target = `ssl:127.0.0.1:${port}`;
    try {
      await configure([target], file('learned.pem'), true);
      for (let i = 0; i < 2000 && sockets.length < 2; i++) await sleep(10);
      assert.ok(sockets.length >= 2, JSON.stringify(connmgr.status().get(target)));
      const pem = (name: string) => readFileSync(file(name), 'utf8').replace(/\s/g, '');
      assert.equal(pem('learned.pem'), pem('ca.pem'));
      const peer = new OfClient(sockets[1], 4);
      peer.send({ type: 'hello' });
      await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    } finally {
      await configure([]);
      server.close();
      for (const socket of sockets) socket.destroy();
    }
  });

  it('without keys says what is missing', async () => {
    await connmgr.configure({ controllers: [{ target: 'ssl:127.0.0.1:1' }], failMode: 'secure' });
    const status = connmgr.status().get('ssl:127.0.0.1:1')?.status;
    assert.equal(status?.last_error, 'Protocol not available');
  });
});
