// --ssl-protocols and --ssl-ciphers of the connection to the database: what becomes of them in OpenSSL.

import assert from 'node:assert/strict';
import { constants } from 'node:crypto';
import { test } from 'node:test';
import { createSecureContext } from 'node:tls';
import { tlsLimits, unknownProtocol } from '../../src/control/ovsdb/remote.ts';

test('protocols that are not in the list are refused', () => {
  assert.deepEqual(tlsLimits({}), {});
  const none = constants.SSL_OP_NO_TLSv1;
  assert.equal(tlsLimits({ protocols: 'TLSv1.1, tlsv1.2' }).secureOptions, none);
  assert.equal(
    tlsLimits({ protocols: 'TLSv1.2' }).secureOptions,
    none | constants.SSL_OP_NO_TLSv1_1,
  );
});

test('a list with an unknown word counts for nothing', () => {
  assert.equal(unknownProtocol('TLSv1.2 TLSv9'), 'TLSv9');
  assert.equal(unknownProtocol(''), undefined);
  assert.deepEqual(tlsLimits({ protocols: 'TLSv1.2 TLSv9' }), {});
});

test('ciphers are those of OpenSSL; none that it knows is an error', () => {
  createSecureContext(tlsLimits({ ciphers: 'HIGH:!aNULL:!MD5', protocols: 'TLSv1.2' }));
  assert.throws(() => createSecureContext(tlsLimits({ ciphers: 'NONSENSE' })), /no cipher match/i);
});
