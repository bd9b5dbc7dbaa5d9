import { Fault } from '@opm/contract';

/** Express's own errors carry a status (a URL that cannot be decoded); all others are ours or nobody's. */
export function toFault(error: unknown): Fault {
  if (error instanceof Fault) return error;
  const { status } = error as { status?: number };
  return new Fault(status === 400 ? 'URL_MALFORMED' : 'INTERNAL', status === 400 ? {} : { cause: error });
}
