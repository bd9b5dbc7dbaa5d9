import pg from 'pg';

/** An error of PostgreSQL or of the connection to it. `sqlState` is PostgreSQL's five-character code, if any. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  readonly kind: FailureKind;
  readonly sqlState: string | undefined;
  /** Prisma's error code, such as P2002 (unique constraint) or P2010 (raw statement). */
  readonly prismaCode: string | undefined;

  constructor(message: string, { cause, kind = 'unknown', sqlState, prismaCode }: ErrorOptions & Details = {}) {
    super(message, { cause });
    this.kind = kind;
    this.sqlState = sqlState;
    this.prismaCode = prismaCode;
  }

  /**
   * Whether the store itself refused the input. Its message quotes no data; one of PostgreSQL may.
   * Not for errors of {@link StoreError.of}.
   */
  get isOwn(): boolean {
    return this.cause === undefined;
  }

  /** Creates an error from the SQLSTATE and message that an SQL function of ours caught. */
  static of(sqlState: string, message: string): StoreError {
    const kind = toFailureKind({ sqlState, driverKind: undefined, codes: [], message });
    return new StoreError(message, { kind, sqlState });
  }
}

type Details = { kind?: FailureKind; sqlState?: string | undefined; prismaCode?: string | undefined };

/** Returns the kind of a thrown value; 'unknown' if it is not a StoreError. */
export function failureKindOf(error: unknown): FailureKind {
  return error instanceof StoreError ? error.kind : 'unknown';
}

/** Runs the call and translates errors of Prisma, its driver or pg. @throws StoreError */
export async function toStoreError<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof StoreError) throw error;
    const { message, code, meta } = error as PrismaError;
    const cause = meta?.driverAdapterError?.cause;
    const sqlState = error instanceof pg.DatabaseError ? code : (cause?.originalCode ?? cause?.code);
    const text = cause?.originalMessage ?? (lastLine(message) || code || 'unknown error');
    throw new StoreError(text, {
      cause: error,
      kind: toFailureKind({ sqlState, driverKind: cause?.kind, codes: findCodes(error), message: text }),
      sqlState,
      prismaCode: code !== undefined && PRISMA_CODE.test(code) ? code : undefined,
    });
  }
}

/** Prisma's `contains` and `startsWith` become LIKE and do not escape its wildcards. */
export const escapeLike = (text: string): string => text.replace(/[\\%_]/g, '\\$&');

const PRISMA_CODE = /^P\d{4}$/;

type PrismaError = {
  message: string;
  code?: string;
  meta?: {
    driverAdapterError?: { cause?: { kind?: string; originalCode?: string; code?: string; originalMessage?: string } };
  };
};

/** Codes of the error, its causes and its inner errors. A host with several addresses fails with an AggregateError. */
function findCodes(error: unknown, depth = 0): string[] {
  if (!(error instanceof Object) || depth > 3) return [];
  const { code, cause, errors = [] } = error as { code?: unknown; cause?: unknown; errors?: unknown[] };
  const inner = [cause, ...errors].flatMap((it) => findCodes(it, depth + 1));
  return typeof code === 'string' ? [code, ...inner] : inner;
}

/** Prisma prefixes its messages with the invocation, over several lines. The last line contains the real message. */
function lastLine(message: string): string {
  const line = message.trim().split('\n').at(-1) ?? message;
  return /^Raw query failed\. .*Message: `(.*)`$/.exec(line)?.[1] ?? line;
}

/**
 * Why a statement failed, and what a retry can do:
 * - `rejected`: PostgreSQL rejects the data of some rows, and will again.
 * - `conflict`: a concurrent transaction interfered. A retry may succeed at once.
 * - `blocked`: these rows are locked, or the statement timed out. A retry may succeed later, and other rows meanwhile.
 * - `outage`: the store as a whole fails, for any data. A retry may succeed later.
 * - `unknown`: unclassified.
 */
export type FailureKind = 'rejected' | 'conflict' | 'blocked' | 'outage' | 'unknown';

/** SQLSTATE classes and codes (https://www.postgresql.org/docs/current/errcodes-appendix.html). First match applies. */
const BY_SQL_STATE: [RegExp, FailureKind][] = [
  [/^21/, 'rejected'], // cardinality violation
  [/^22/, 'rejected'], // data exception
  [/^23/, 'rejected'], // integrity constraint violation
  [/^54/, 'rejected'], // program limit exceeded, such as the size of an index row
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

/** Outages without a SQLSTATE: error kinds of Prisma's driver adapter. */
const LOST_CONNECTION = new Set(['DatabaseNotReachable', 'ConnectionClosed', 'SocketTimeout', 'TlsConnectionError']);

/**
 * Outages without a SQLSTATE: codes of Node's system and TLS errors, such as ECONNREFUSED, and of certificates that it
 * rejects, such as CERT_HAS_EXPIRED (https://nodejs.org/api/tls.html#x509-certificate-error-codes).
 */
const SYSTEM_ERROR =
  /^E[A-Z\d_]+$|CERT|CRL|^UNABLE_TO_|^HOSTNAME_MISMATCH$|^INVALID_(CA|PURPOSE)$|^PATH_LENGTH_EXCEEDED$/;

/** Outages without a SQLSTATE: messages of pg's own errors, which have no code. */
const LOST_CONNECTION_MESSAGE =
  /^(Connection terminated|Query read timeout|timeout exceeded when trying to connect|Client has encountered a connection error|The server does not support SSL|There was an error establishing an SSL connection)/;

/** @param failure `codes` are the codes of the error and its causes */
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
