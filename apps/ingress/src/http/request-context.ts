import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { parseIdempotencyKey, REQUEST_ID } from '@opm/contract';
import type { RateLimit, RequestIds } from '@opm/core';
import type { Response as ExpressResponse } from 'express';
import type { TokenReservation } from '../guards/token-reservation.js';

/** The state of a request, kept in Express's `response.locals`. `projectId` is 0 until the API key has been checked. */
export type RequestContext = Sender & {
  /** When the request had been read, including any body (`performance.now()`, ms). */
  receivedAt: number;
  requestId: string | undefined;
  keyId: number;
  connection: Connection | undefined;
  /** Memory that its connection uses for this request, in bytes. */
  heldBytes: number;
  /** False if a fault that answers the request would refuse one entry that is not counted yet. */
  isCounted: boolean;
};

export const contextOf = (response: ServerResponse) => (response as ExpressResponse).locals as RequestContext;

/** The request id that the partner gave, if it is valid. */
export function findOwnRequestId({ headers }: IncomingMessage): string | undefined {
  const given = headers['x-request-id'];
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : undefined;
}

/** Returns the partner's ids of the request. @throws Fault IDEMPOTENCY_KEY_INVALID or IDEMPOTENCY_KEY_REPEATED */
export function findRequestIds(request: IncomingMessage): RequestIds | undefined {
  const idempotencyKey = findIdempotencyKey(request);
  const requestId = findOwnRequestId(request);
  return idempotencyKey === undefined && requestId === undefined ? undefined : { idempotencyKey, requestId };
}

function findIdempotencyKey(request: IncomingMessage): string | undefined {
  const value = request.headers['idempotency-key'] as string | undefined;
  if (value === undefined) return undefined;
  // `headers` joins repeated headers with a comma and a space. `headersDistinct` takes time for all headers.
  return parseIdempotencyKey(value.includes(', ') ? (request.headersDistinct['idempotency-key'] ?? []) : [value]);
}

const SENDS_ENTRIES = new Set<string | undefined>(['POST', 'DELETE']);

/** Whether a fault that answers the request refuses an entry that is not counted yet. */
export const refusesEntry = (response: ServerResponse): boolean =>
  SENDS_ENTRIES.has(response.req.method) && !contextOf(response).isCounted;

/** A partner's connection. It limits the memory that its requests use. */
export type Connection = {
  readonly socket: Socket;
  /** Adds to the memory of a request. The memory is freed when the operating system has taken the whole answer. */
  hold(context: RequestContext, bytes: number): void;
  /** Counts a small HTTP chunk. @returns false if the unanswered requests of the connection have had too many */
  mayTakeSmallChunk(): boolean;
};

/** The project that waits for an answer, its connection, and the start of the request (`performance.now()`, ms). */
export type Requester = {
  projectId: number;
  startedAt: number;
  /**
   * Bytes of the body that have been read; for a compressed body, the larger of twice these and what they inflate to.
   */
  bodyBytes: number;
  /** The partner's ids of the request, if any. Set before its entries are accepted. */
  requestIds?: RequestIds | undefined;
  socket: { readonly destroyed: boolean };
};

/** A requester and its rate limit. `reservation` is set if the project has a limit; the answer's headers report it. */
export type Sender = Requester & { limit: RateLimit | undefined; reservation: TokenReservation | undefined };

/** Whether the partner may have given up the request: it has disconnected, or this process stalled meanwhile. */
export type IsAbandoned = (requester: Pick<Requester, 'socket' | 'startedAt'>) => boolean;
