import type { FaultCode } from '../faults.js';
import type { HeaderName, ParameterName } from './headers.js';
import type { Json } from './to-openapi-document.js';
import type { Success } from './to-responses.js';

/** A route and all that may come of it. */
export type Operation = {
  method: 'get' | 'post' | 'delete';
  path: string;
  operationId: string;
  tag: 'API key' | 'Entries' | 'Customers';
  summary: string;
  description: string;
  parameters: ParameterName[];
  requestBody?: Json;
  successes: Success[];
  /** Of its answers, besides those that every answer has. They may be missing. */
  optionalHeaders?: HeaderName[];
  /** Besides those that may come of any request. */
  faults: FaultCode[];
  /** Where an idempotency key gives the first answer again, those of the faults that may be one; all successes may. */
  replayedFaults?: FaultCode[];
};

/** Of what goes into the queue. */
export const QUEUED = {
  headers: ['ratelimit-policy', 'ratelimit'],
  faults: [
    'IDEMPOTENCY_KEY_INVALID',
    'IDEMPOTENCY_KEY_REPEATED',
    'IDEMPOTENCY_KEY_IN_USE',
    'IDEMPOTENCY_KEY_REUSED',
    'TOO_MANY_IDEMPOTENCY_KEYS',
    'RATE_LIMITED',
    'QUEUE_UNAVAILABLE',
    'QUEUE_FULL',
    'OVERLOADED',
  ],
} satisfies { headers: HeaderName[]; faults: FaultCode[] };
