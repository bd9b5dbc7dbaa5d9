import { expect, test } from '@jest/globals';
import { failureKindOf, StoreError, toFailureKind, toStoreError } from './store-error.js';

const withCode = (message: string, code: string) => Object.assign(new Error(message), { code });
const refused = () => withCode('connect ECONNREFUSED ::1:5432', 'ECONNREFUSED');

test.each([
  ['a refused connection', refused()],
  ['a host with several addresses, none of which answers', new AggregateError([refused(), refused()], '')],
  ['a certificate that is not trusted', withCode('self-signed certificate', 'DEPTH_ZERO_SELF_SIGNED_CERT')],
  ['an expired certificate', withCode('certificate has expired', 'CERT_HAS_EXPIRED')],
  ['an unknown authority', withCode('unable to verify the first certificate', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE')],
  ['a server without TLS', new Error('The server does not support SSL connections')],
  ['a server that cannot start TLS', new Error('There was an error establishing an SSL connection')],
  ['a failed TLS handshake', withCode('handshake failure', 'ERR_SSL_TLSV1_ALERT_UNKNOWN_CA')],
  ['an error that wraps one', Object.assign(new Error('failed'), { cause: new AggregateError([refused()], '') })],
])('%s is an outage', async (_, error) => {
  const thrown = await toStoreError(() => Promise.reject(error)).catch((reason) => reason);
  expect(failureKindOf(thrown)).toBe('outage');
  expect(thrown.cause).toBe(error);
});

test('a defect of ours is of the kind unknown, and a StoreError passes unchanged', async () => {
  const thrown = await toStoreError(() => Promise.reject(new TypeError('x is undefined'))).catch((reason) => reason);
  expect(failureKindOf(thrown)).toBe('unknown');
  const own = new StoreError('taken', { prismaCode: 'P2002' });
  expect(await toStoreError(() => Promise.reject(own)).catch((reason) => reason)).toBe(own);
});

test.each([
  ['22021', 'rejected'], // a character that text cannot hold
  ['23502', 'rejected'],
  ['54000', 'rejected'], // an index row that is too large
  ['40001', 'conflict'],
  ['40P01', 'conflict'],
  ['08006', 'outage'],
  ['25006', 'outage'], // read-only
  ['28P01', 'outage'], // wrong password
  ['3D000', 'outage'], // no such database
  ['42P01', 'outage'], // no such table
  ['53100', 'outage'], // disk full
  ['53300', 'outage'],
  ['57014', 'blocked'], // statement timeout
  ['55P03', 'blocked'], // lock timeout
  ['55000', 'outage'],
  ['57P01', 'outage'], // shutdown
  ['58030', 'outage'],
  ['P0001', 'unknown'], // raised by a trigger
  ['XX000', 'unknown'],
])('SQLSTATE %s is of the kind %s', (sqlState, kind) => {
  expect(toFailureKind({ sqlState, driverKind: 'postgres', codes: ['P2010'], message: '' })).toBe(kind);
});

test.each([
  ['DatabaseNotReachable', "Can't reach database server", 'outage'],
  ['ConnectionClosed', '', 'outage'],
  [undefined, 'Connection terminated unexpectedly', 'outage'],
  [undefined, 'Connection terminated due to connection timeout', 'outage'],
  [undefined, 'Query read timeout', 'outage'],
  [undefined, 'timeout exceeded when trying to connect', 'outage'],
  [undefined, "Cannot read properties of undefined (reading 'fields')", 'unknown'],
])('without a SQLSTATE, driver kind %s with "%s" is of the kind %s', (driverKind, message, kind) => {
  expect(toFailureKind({ sqlState: undefined, driverKind, codes: ['P2010'], message })).toBe(kind);
});
