/**
 * What a failed statement says:
 * - `refusal`: of its data, which will be refused again; some of the rows are to blame
 * - `conflict`: of a neighbour; the same statement may pass at once
 * - `blocked`: of these rows, which somebody holds; the same statement may pass later, and others pass meanwhile
 * - `outage`: of the store as a whole, whatever the data; the same statement may pass later
 * - `unknown`: nothing that we can tell
 */
export type FailureKind = 'refusal' | 'conflict' | 'blocked' | 'outage' | 'unknown';

/** SQLSTATE classes and codes (https://www.postgresql.org/docs/current/errcodes-appendix.html), the first match counts. */
const BY_SQL_STATE: [RegExp, FailureKind][] = [
  [/^21/, 'refusal'], // cardinality violation
  [/^22/, 'refusal'], // data exception
  [/^23/, 'refusal'], // integrity constraint violation
  [/^54/, 'refusal'], // program limit exceeded, such as the size of an index row
  [/^(55P03|57014)/, 'blocked'], // lock not available in time; statement timeout
  [/^40/, 'conflict'], // transaction rollback: serialization failure, deadlock
  [/^08/, 'outage'], // connection exception
  [/^25/, 'outage'], // invalid transaction state: read-only after a failover
  [/^28/, 'outage'], // invalid authorization: a password was changed
  [/^3[DF]/, 'outage'], // no such database, no such schema
  [/^42/, 'outage'], // access rule violation: a migration or a grant is missing
  [/^53/, 'outage'], // insufficient resources: disk, memory, connections
  [/^55/, 'outage'], // object not in prerequisite state
  [/^57/, 'outage'], // operator intervention: shutdown, crash
  [/^58/, 'outage'], // system error: I/O
];

/** Where there is no SQLSTATE: the kinds of Prisma's driver adapter … */
const LOST_CONNECTION = new Set(['DatabaseNotReachable', 'ConnectionClosed', 'SocketTimeout', 'TlsConnectionError']);

/** … the codes of Node's system errors, such as ECONNREFUSED … */
const SYSTEM_ERROR = /^E[A-Z_]+$/;

/** … and the messages of pg's own errors, which have nothing else to be known by. */
const LOST_CONNECTION_MESSAGE =
  /^(Connection terminated|Query read timeout|timeout exceeded when trying to connect|Client has encountered a connection error)/;

export function toFailureKind(failure: {
  sqlState: string | undefined;
  driverKind: string | undefined;
  codes: string[];
  message: string;
}): FailureKind {
  const { sqlState, driverKind, codes, message } = failure;
  if (sqlState !== undefined) return BY_SQL_STATE.find(([pattern]) => pattern.test(sqlState))?.[1] ?? 'unknown';
  if (driverKind !== undefined && LOST_CONNECTION.has(driverKind)) return 'outage';
  if (codes.some((code) => SYSTEM_ERROR.test(code))) return 'outage';
  return LOST_CONNECTION_MESSAGE.test(message) ? 'outage' : 'unknown';
}
