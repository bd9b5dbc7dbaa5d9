import { expect, test } from '@jest/globals';
import { toFailureKind } from './failure-kind.js';

test.each([
  ['22021', 'refusal'], // a character that text cannot hold
  ['23502', 'refusal'],
  ['54000', 'refusal'], // an index row that is too large
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
