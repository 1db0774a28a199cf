// Mixed pairs: the real ovs-vswitchd on the embedded database, and our session on the real
// ovsdb-server, each configured by ovs-vsctl that waits for the daemon. And a disk that is really
// full. Needs openvswitch-switch; the last test root.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OvsdbClient } from '../../src/control/ovsdb/client.ts';
import {
  columnUpdates,
  daemonIdentity,
  interfaceFailed,
  interfaceOpened,
  type WantedRow,
} from '../../src/control/ovsdb/columns.ts';
import { startEmbedded } from '../../src/control/ovsdb/embedded.ts';
import { type Peers, run, startPeers } from './ovsdbPeers.ts';

let peers: Peers;
before(async () => {
  peers = await startPeers();
});
after(async () => {
  await peers?.close();
});

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if (await condition()) return;
    await sleep(50);
  }
  assert.fail(`timeout: ${what}`);
}

test('the real ovs-vswitchd works on the embedded database', async () => {
  const { directory, ours } = peers;
  const environment = { ...process.env, OVS_RUNDIR: directory, OVS_SYSLOG_METHOD: 'null' };
  const options = ['--enable-dummy=override', '--disable-system', '--no-chdir', '-vconsole:off'];
  const unixctl = `--unixctl=${join(directory, 'vswitchd.ctl')}`;
  const daemon = spawn(
    '/usr/lib/openvswitch-switch/ovs-vswitchd',
    [...options, unixctl, ours.remote],
    {
      env: environment,
      stdio: 'ignore',
    },
  );
  const ended = new Promise((resolve) => daemon.once('exit', resolve));
  try {
    const vsctl = (...args: string[]) =>
      run('ovs-vsctl', [`--db=${ours.remote}`, '--timeout=10', ...args]);
    const added = await vsctl(
      'add-br',
      'br9',
      '--',
      'set',
      'Bridge',
      'br9',
      'datapath_type=dummy',
      '--',
      'add-port',
      'br9',
      'p9',
      '--',
      'set',
      'Interface',
      'p9',
      'ofport_request=4',
    );
    assert.deepEqual(added, { code: 0, stdout: '', stderr: '' });
    assert.equal((await vsctl('get', 'Interface', 'p9', 'ofport')).stdout, '4\n');
    const failed = await vsctl(
      'add-port',
      'br9',
      'q9',
      '--',
      'set',
      'Interface',
      'q9',
      'type=nonsense',
    );
    assert.match(failed.stderr, /Error detected while setting up 'q9'/);
    await until(
      async () =>
        (await vsctl('get', 'Interface', 'p9', 'statistics')).stdout.includes('rx_packets'),
      'statistics',
    );
    assert.match((await vsctl('get', 'Open_vSwitch', '.', 'iface_types')).stdout, /patch/);
    assert.deepEqual(await vsctl('del-br', 'br9'), { code: 0, stdout: '', stderr: '' });
  } finally {
    daemon.kill('SIGKILL');
    await ended;
  }
});

/** The smallest daemon: gives every interface a number, or an error, and says that it is done. */
function miniature(remote: string): OvsdbClient {
  const client = new OvsdbClient({
    remote,
    onChange: ({ config }) => {
      if (config) configure();
    },
    onLock: () => configure(),
  });
  const configure = () => {
    const { snapshot } = client;
    const { root } = snapshot;
    if (!root || client.lockState !== 'held') return;
    const rows = new Map<string, WantedRow<'Interface'>>();
    for (const bridge of snapshot.rows('Bridge', root.bridges)) {
      for (const [i, port] of snapshot.rows('Port', bridge.ports).entries()) {
        for (const iface of snapshot.rows('Interface', port.interfaces)) {
          const text = `could not open network device ${iface.name} (No such device)`;
          const good = iface.type === 'internal';
          rows.set(iface.uuid, good ? interfaceOpened(i + 1) : interfaceFailed(text));
        }
      }
    }
    const identity = daemonIdentity({
      curCfg: root.next_cfg,
      datapathTypes: ['netdev', 'system'],
      ifaceTypes: ['internal'],
    });
    const wanted = { Interface: rows, Open_vSwitch: new Map([[root.uuid, identity]]) };
    const operations = columnUpdates(snapshot, wanted);
    if (operations.length > 0) client.transact(operations).catch(() => {});
  };
  client.start();
  return client;
}

test('our session serves ovs-vsctl on the real and on the embedded database', async () => {
  for (const peer of [peers.real, peers.ours]) {
    const client = miniature(peer.remote);
    try {
      await until(() => client.lockState === 'held', 'lock');
      const vsctl = (...args: string[]) =>
        run('ovs-vsctl', [`--db=${peer.remote}`, '--timeout=10', ...args]);
      assert.deepEqual(await vsctl('add-br', 'br0'), { code: 0, stdout: '', stderr: '' });
      const failed = await vsctl('add-port', 'br0', 'nonex0');
      assert.equal(failed.code, 0);
      assert.match(
        failed.stderr,
        /Error detected while setting up 'nonex0': could not open network device nonex0 \(No such device\)/,
      );
      assert.equal((await vsctl('get', 'Interface', 'nonex0', 'ofport')).stdout, '-1\n');
      const waited = await vsctl('wait-until', 'Interface', 'br0', 'ofport>=1');
      assert.equal(waited.code, 0);
      await vsctl('del-br', 'br0');
      assert.equal(client.snapshot.table('Bridge').size, 0);
      assert.equal(
        (await vsctl('get', 'Open_vSwitch', '.', 'datapath_types')).stdout,
        '[netdev, system]\n',
      );
    } finally {
      client.close();
    }
  }
});

test('each server takes over the file of the other', async () => {
  const history = [
    'add-br x0',
    'add-port x0 x1',
    'set Port x1 trunks=1,2,3',
    'add-port x0 x2',
    'set Port x1 trunks=2,4',
  ].concat([
    'set Bridge x0 other_config:a=b other_config:c=d',
    'set Bridge x0 other_config:c=e',
    'del-port x2',
  ]);
  const shown = async (remote: string) =>
    (await run('ovsdb-client', ['dump', '--format=csv', remote, 'Open_vSwitch'])).stdout;
  const file = join(peers.directory, 'taken.db');
  const socket = join(peers.directory, 'taken.sock');
  for (const from of [peers.ours, peers.real]) {
    for (const command of history) {
      const { code } = await run('ovs-vsctl', [
        `--db=${from.remote}`,
        '--no-wait',
        ...command.split(' '),
      ]);
      assert.equal(code, 0, command);
    }
    const before = await shown(from.remote);
    assert.match(before, /x0/);
    await run('rm', ['-f', file]);
    await run('cp', [from.file, file]);
    if (from === peers.real) {
      const embedded = await startEmbedded({ file, sockets: [`punix:${socket}`] });
      assert.deepEqual(
        (await shown(`unix:${socket}`)).split('\n').sort(),
        before.split('\n').sort(),
      );
      await embedded.close();
    } else {
      const args = [
        file,
        `--remote=punix:${socket}`,
        '--unixctl=none',
        '--no-chdir',
        '-vconsole:off',
      ];
      const server = spawn('ovsdb-server', args, { stdio: 'ignore' });
      const ended = new Promise((resolve) => server.once('exit', resolve));
      try {
        await until(async () => (await shown(`unix:${socket}`)) !== '', 'real server on our file');
        assert.deepEqual(
          (await shown(`unix:${socket}`)).split('\n').sort(),
          before.split('\n').sort(),
        );
      } finally {
        server.kill('SIGKILL');
        await ended;
        await run('rm', ['-f', socket]);
      }
    }
    await run('ovs-vsctl', [`--db=${from.remote}`, '--no-wait', 'del-br', 'x0']);
  }
});

test('managers: waiting and connecting, in clear and with TLS', async () => {
  const { directory, ours } = peers;
  const vsctl = (...args: string[]) =>
    run('ovs-vsctl', [`--db=${ours.remote}`, '--no-wait', ...args]);
  const pki = join(directory, 'pki');
  mkdirSync(pki);
  const openssl = (...args: string[]) => run('openssl', args);
  const [key, cert] = [join(pki, 'key.pem'), join(pki, 'cert.pem')];
  const made = await openssl(
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-subj',
    '/CN=test',
    '-days',
    '2',
    '-keyout',
    key,
    '-out',
    cert,
  );
  assert.equal(made.code, 0, made.stderr);
  const received: string[] = [];
  const controller = createServer((socket) => {
    socket.on('data', (chunk) => received.push(String(chunk)));
    socket.on('error', () => {});
    socket.write('{"id":7,"method":"list_dbs","params":[]}');
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => controller.once('listening', resolve));
  const { port } = controller.address() as { port: number };
  const targets = [
    `tcp:127.0.0.1:${port}`,
    'ptcp:0:127.0.0.1',
    'pssl:0:127.0.0.1',
    'tcp:127.0.0.1:1',
  ];
  try {
    assert.equal((await vsctl('set-ssl', key, cert, cert)).code, 0);
    assert.equal((await vsctl('set-manager', ...targets)).code, 0);
    await until(
      () => received.join('').includes('["_Server","Open_vSwitch"]'),
      'active connection',
    );
    const status = async (target: string, column: string) =>
      (await vsctl('get', 'Manager', target, column)).stdout;
    await until(
      async () => (await status('ptcp:0:127.0.0.1', 'status')).includes('bound_port'),
      'status',
    );
    const portOf = async (target: string) =>
      /bound_port="(\d+)"/.exec(await status(target, 'status'))![1];
    const plain = await run('ovsdb-client', [
      'list-dbs',
      `tcp:127.0.0.1:${await portOf('ptcp:0:127.0.0.1')}`,
    ]);
    assert.equal(plain.stdout.trim(), 'Open_vSwitch\n_Server');
    const secure = `ssl:127.0.0.1:${await portOf('pssl:0:127.0.0.1')}`;
    const tls = ['-p', key, '-c', cert, '-C', cert];
    const encrypted = await run('ovsdb-client', [...tls, 'list-dbs', secure]);
    assert.equal(encrypted.stdout.trim(), 'Open_vSwitch\n_Server', encrypted.stderr);
    const refused = await run('ovsdb-client', [
      '-p',
      'none',
      '-c',
      'none',
      '-C',
      cert,
      '--timeout=3',
      'list-dbs',
      secure,
    ]);
    assert.notEqual(refused.code, 0);
    const client = new OvsdbClient({
      remote: secure,
      tls: { privateKey: key, certificate: cert, caCert: cert },
      onChange: () => {},
      lock: 'somebody',
    });
    client.start();
    await until(() => client.lockState === 'held', 'our session over TLS');
    client.close();
    // --bootstrap-ca-cert: taken from the first connection, which counts for nothing else, and used from then on.
    const learned = join(peers.directory, 'learned.pem');
    const files = { privateKey: key, certificate: cert, caCert: learned, bootstrap: true };
    const limits = { protocols: 'TLSv1.2', ciphers: 'ECDHE+AESGCM' };
    const trusting = new OvsdbClient({
      remote: secure,
      tls: { ...files, ...limits },
      onChange: () => {},
      lock: 'another',
    });
    trusting.start();
    await until(() => trusting.lockState === 'held', 'a session after the bootstrap');
    trusting.close();
    assert.match(readFileSync(learned, 'utf8'), /^-----BEGIN CERTIFICATE-----/);
    assert.equal(await status(targets[0]!, 'is_connected'), 'true\n');
    assert.match(await status(targets[0]!, 'status'), /state=ACTIVE/);
    assert.match(
      await status('tcp:127.0.0.1:1', 'status'),
      /last_error="Connection refused".*state=(BACKOFF|CONNECTING)/,
    );
    await vsctl('del-manager');
    await until(
      async () =>
        (await run('ovsdb-client', ['--timeout=3', ...tls, 'list-dbs', secure])).code !== 0,
      'end',
    );
  } finally {
    controller.close();
  }
});

test('a full disk: ovs-vsctl shows an I/O error, nothing is half written', async () => {
  const mount = join(peers.directory, 'tiny');
  mkdirSync(mount);
  const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mount]);
  assert.equal(mounted.code, 0, `this test must mount a file system: ${mounted.stderr}`);
  const socket = join(peers.directory, 'tiny.sock');
  const file = join(mount, 'conf.db');
  let embedded = await startEmbedded({ file, sockets: [`punix:${socket}`] });
  try {
    const vsctl = (...args: string[]) =>
      run('ovs-vsctl', [`--db=unix:${socket}`, '--no-wait', '--timeout=10', ...args]);
    assert.equal((await vsctl('add-br', 'br0')).code, 0);
    let room = 40_000;
    for (; room > 0; room -= 4096) {
      try {
        writeFileSync(join(mount, 'fill'), Buffer.alloc(room));
        break;
      } catch {
        // try a smaller one
      }
    }
    let failed = { code: 0, stdout: '', stderr: '' };
    let bridges = 1;
    for (; failed.code === 0 && bridges < 100; bridges++) {
      failed = await vsctl('add-br', `br${bridges}`);
    }
    const reply = `{"details":"${file}: write failed","error":"I/O error","io-error":"No space left on device"}`;
    assert.ok(failed.stderr.includes(`ovs-vsctl: transaction error: ${reply}`), failed.stderr);
    assert.equal((await vsctl('list-br')).stdout.trim().split('\n').length, bridges - 1);
    await run('rm', [join(mount, 'fill')]);
    assert.equal((await vsctl('add-br', 'last')).code, 0);
    await embedded.close();
    embedded = await startEmbedded({ file, sockets: [] });
    assert.equal(embedded.storage.database.tables.get('Bridge')!.rows.size, bridges);
  } finally {
    await embedded.close();
    await run('umount', [mount]);
  }
});
