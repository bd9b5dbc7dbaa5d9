import pg from 'pg';
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

  /** What a function of ours has caught. */
  static of(sqlState: string, message: string): StoreError {
    const kind = toFailureKind({ sqlState, driverKind: undefined, codes: [], message });
    return new StoreError(message, { kind, sqlState });
  }
}

type Details = { kind?: FailureKind; sqlState?: string | undefined; prismaCode?: string | undefined };

/** What to make of whatever was thrown; a foreign error is 'unknown'. */
export function failureKindOf(error: unknown): FailureKind {
  return error instanceof StoreError ? error.kind : 'unknown';
}

/** Runs the call and translates what Prisma, its driver or pg itself throws. */
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

const PRISMA_CODE = /^P\d{4}$/;

type PrismaError = {
  message: string;
  code?: string;
  meta?: {
    driverAdapterError?: { cause?: { kind?: string; originalCode?: string; code?: string; originalMessage?: string } };
  };
};

/** The codes of an error and of what it stands for: a host with several addresses fails with an AggregateError, for one. */
function findCodes(error: unknown, depth = 0): string[] {
  if (!(error instanceof Object) || depth > 3) return [];
  const { code, cause, errors = [] } = error as { code?: unknown; cause?: unknown; errors?: unknown[] };
  const inner = [cause, ...errors].flatMap((it) => findCodes(it, depth + 1));
  return typeof code === 'string' ? [code, ...inner] : inner;
}

/** Prisma prefixes its messages with the invocation, over several lines; the last one says what happened, or quotes it. */
function lastLine(message: string): string {
  const line = message.trim().split('\n').at(-1) ?? message;
  return /^Raw query failed\. .*Message: `(.*)`$/.exec(line)?.[1] ?? line;
}
