import { type FailureKind, toFailureKind } from './failure-kind.js';

/** What PostgreSQL or the way to it refused. `sqlState` is its five-character code, where there was one. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  readonly kind: FailureKind;
  readonly sqlState: string | undefined;
  /** Prisma's own code: P2002 unique constraint, P2010 raw statement, … */
  readonly prismaCode: string | undefined;

  constructor(message: string, { cause, kind = 'unknown', sqlState, prismaCode }: ErrorOptions & Details = {}) {
    super(message, { cause });
    this.kind = kind;
    this.sqlState = sqlState;
    this.prismaCode = prismaCode;
  }
}

type Details = { kind?: FailureKind; sqlState?: string | undefined; prismaCode?: string | undefined };

/** What to make of whatever was thrown; a foreign error is 'unknown'. */
export function failureKindOf(error: unknown): FailureKind {
  return error instanceof StoreError ? error.kind : 'unknown';
}

/** Runs the call and translates what Prisma and its driver throw. */
export async function toStoreError<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof StoreError) throw error;
    const { message, code, meta } = error as PrismaError;
    const cause = meta?.driverAdapterError?.cause;
    const sqlState = cause?.originalCode ?? cause?.code;
    throw new StoreError(cause?.originalMessage ?? lastLine(message), {
      cause: error,
      kind: toFailureKind({ sqlState, driverKind: cause?.kind, message }),
      sqlState,
      prismaCode: code,
    });
  }
}

type PrismaError = {
  message: string;
  code?: string;
  meta?: {
    driverAdapterError?: { cause?: { kind?: string; originalCode?: string; code?: string; originalMessage?: string } };
  };
};

/** Prisma prefixes its messages with the invocation, over several lines; the last one says what happened, or quotes it. */
function lastLine(message: string): string {
  const line = message.trim().split('\n').at(-1) ?? message;
  return /^Raw query failed\. .*Message: `(.*)`$/.exec(line)?.[1] ?? line;
}
