import { ANSWERS } from '../answers.js';
import { FAULTS } from '../faults.js';
import { LIMITS, toSize } from '../limits.js';
import { type Operation, QUEUED } from './operation.js';
import { ENTRY_RULES } from './schemas.js';

const BATCH = [
  { customerId: 7520, customerEmail: 'john@example.com' },
  { customerId: 7521, customerPhone: '+41 44 668 18 00' },
  { customerId: 7520, customerEmail: 'j.doe@example.com' },
];
const { statusCode, error } = FAULTS.BODY_INVALID;
const NO_CONTACT = {
  statusCode,
  error,
  message: "body must have either required property 'customerEmail' or 'customerPhone'",
};

export const postEntries: Operation = {
  method: 'post',
  path: '/entries',
  operationId: 'postEntries',
  tag: 'Entries',
  summary: `Send up to ${LIMITS.batchEntries} entries`,
  description: `A JSON array, or lines of one entry each with the content type \`application/x-ndjson\`, of ${toSize(LIMITS.batchBytes)} at most, with at most ${toSize(LIMITS.entryBytes)} per entry. Each entry is answered as the single call would have been: one that is wrong keeps no other one from being accepted.

Entries of the same customer apply in the order in which they stand. Where we cannot go on in the middle, there are results 503 from there on, or 429 where your rate limit is reached, and the answer has \`retry-after\`: send those entries once more, in their order, and with a new \`idempotency-key\` where you use them.

An array is read to its end before anything in it is accepted. Lines are accepted while they arrive, so where an upload is broken off or turns out to be too large, the lines before that may have been accepted. Sending them again is safe. With an \`idempotency-key\` lines are read to their end first, too.`,
  parameters: ['requestId', 'idempotencyKey'],
  requestBody: {
    description: ENTRY_RULES,
    required: true,
    content: {
      'application/json': {
        schema: {
          type: 'array',
          minItems: 1,
          maxItems: LIMITS.batchEntries,
          items: { $ref: '#/components/schemas/Entry' },
        },
        examples: { entries: { summary: 'Three entries', value: BATCH } },
      },
      'application/x-ndjson': {
        schema: {
          type: 'string',
          description: `One entry per line, each of ${toSize(LIMITS.entryBytes)} at most. Empty lines are no entries.`,
        },
        examples: {
          lines: { summary: 'Three lines', value: BATCH.map((entry) => `${JSON.stringify(entry)}\n`).join('') },
        },
      },
    },
  },
  optionalHeaders: QUEUED.headers,
  successes: [
    {
      statusCode: ANSWERS.multiStatus.statusCode,
      description:
        'One result per entry. Look at `rejected`; all that is counted in `accepted` is safely queued. Where not one entry could be queued, the whole answer is a 503 or a 429.',
      schema: { $ref: '#/components/schemas/BatchAnswer' },
      examples: {
        accepted: {
          summary: 'All are accepted',
          value: {
            ...ANSWERS.multiStatus,
            accepted: 3,
            rejected: 0,
            results: [ANSWERS.created, ANSWERS.created, ANSWERS.updateAccepted],
          },
        },
        mixed: {
          summary: 'One of three is wrong',
          value: {
            ...ANSWERS.multiStatus,
            accepted: 2,
            rejected: 1,
            results: [ANSWERS.created, NO_CONTACT, ANSWERS.updateAccepted],
          },
        },
      },
      optionalHeaders: ['retry-after'],
    },
  ],
  faults: [
    'BODY_MALFORMED',
    'BODY_INVALID',
    'BATCH_EMPTY',
    'BATCH_TOO_LARGE',
    'BATCH_TOO_LONG',
    'MEDIA_TYPE_UNSUPPORTED',
    'BODY_COMPRESSED',
    'CHUNKS_TOO_SMALL',
    ...QUEUED.faults,
  ],
  replayedFaults: [],
};
