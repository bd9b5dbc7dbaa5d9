import { ANSWERS } from '../answers.js';
import { type Operation, QUEUED } from './operation.js';

export const deleteEntry: Operation = {
  method: 'delete',
  path: '/entry/{customerId}',
  operationId: 'deleteEntry',
  tag: 'Customers',
  summary: 'Erase a customer',
  description: `Covers all entries of the customer that were accepted before it; a moment later nothing of them is left but the id and the time of the erasure, which are kept for some weeks so that nothing older can bring the customer back. An entry that you send afterwards creates the customer anew.

A repeat after a lost answer may be a 404: then too nothing older is left.`,
  parameters: ['customerId', 'requestId', 'idempotencyKey'],
  optionalHeaders: QUEUED.headers,
  successes: [{ answer: ANSWERS.erasureAccepted, description: 'The erasure is queued safely.' }],
  faults: ['PATH_MALFORMED', 'PATH_INVALID', 'CUSTOMER_UNKNOWN', ...QUEUED.faults],
  replayedFaults: ['CUSTOMER_UNKNOWN'],
};
