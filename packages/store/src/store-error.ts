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
 * SQLSTATE classes that judge the data: cardinality, data exception, integrity constraint, limits (of an index row, say)
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
const REFUSALS = /^(21|22|23|54)/;

/**
 * Whether PostgreSQL refused the data itself. Anything else (a lost connection, a deadlock, a wrong password, a table
 * that is not there yet) says nothing of the data, and the same call may succeed later.
 */
export function isRefusal(error: unknown): error is StoreError {
  return error instanceof StoreError && error.sqlState !== undefined && REFUSALS.test(error.sqlState);
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
