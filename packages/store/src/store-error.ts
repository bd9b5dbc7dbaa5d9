/** What PostgreSQL or the way to it refused. `sqlState` is its five-character code, where there was one. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  readonly sqlState: string | undefined;
  /** Prisma's own code: P1001 cannot reach the server, P2002 unique constraint, … */
  readonly prismaCode: string | undefined;

  constructor(message: string, { cause, sqlState, prismaCode }: ErrorOptions & Codes = {}) {
    super(message, { cause });
    this.sqlState = sqlState;
    this.prismaCode = prismaCode;
  }
}

type Codes = { sqlState?: string | undefined; prismaCode?: string | undefined };

/**
 * SQLSTATE classes that say "not now" rather than "never"
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
const TRANSIENT_SQL_STATES = [
  /^08/, // connection exception
  /^25006$/, // read-only: a standby after a failover
  /^40/, // deadlock, serialization failure
  /^53/, // insufficient resources
  /^55P03$/, // lock not available
  /^57/, // operator intervention, shutdown, statement timeout
  /^58/, // system error
];

/** Whether the same call may succeed later: lost connections, deadlocks, timeouts, a server that restarts. */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof StoreError)) return false;
  const { sqlState } = error;
  // Without a SQLSTATE the server did not judge the statement: the connection failed or timed out.
  return sqlState === undefined ? error.prismaCode !== 'P2002' : TRANSIENT_SQL_STATES.some((s) => s.test(sqlState));
}

/** Runs the call and translates what Prisma throws. */
export async function toStoreError<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    const { message, code, meta } = error as PrismaError;
    const cause = meta?.driverAdapterError?.cause;
    throw new StoreError(cause?.originalMessage ?? lastLine(message), {
      cause: error,
      sqlState: cause?.originalCode ?? cause?.code,
      prismaCode: code,
    });
  }
}

type PrismaError = {
  message: string;
  code?: string;
  meta?: { driverAdapterError?: { cause?: { originalCode?: string; code?: string; originalMessage?: string } } };
};

// Prisma prefixes its messages with the invocation, over several lines; the last one says what happened.
const lastLine = (message: string) => message.trim().split('\n').at(-1) ?? message;
