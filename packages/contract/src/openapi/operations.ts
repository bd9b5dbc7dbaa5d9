import { parseAskedReceipt } from '../entry.js';
import { ANSWERS, type Answer, FAULTS, type FaultCode } from '../faults.js';
import { LIMITS, toSize } from '../limits.js';
import { RECEIPT_EXAMPLE } from '../reads.js';
import type { HeaderName, ParameterName } from './headers.js';
import { ENTRY_RULES, type Json, type Mistakes } from './schemas.js';

/** A route of the API with its request and its possible answers. */
export type Operation = {
  method: 'get' | 'post' | 'delete';
  path: string;
  operationId: string;
  tag: 'API key' | 'Entries' | 'Customers' | 'Usage';
  summary: string;
  description: string;
  parameters: ParameterName[];
  requestBody?: Json;
  successes: Success[];
  /** Headers that the operation's answers may have, besides those of every answer. */
  optionalHeaders?: HeaderName[];
  /** Faults besides those that any request may cause. */
  faults: FaultCode[];
  /** Examples of faults whose message depends on the mistake, by a description of the mistake. */
  mistakes?: Mistakes;
  /** Optional properties of the bodies of faults with this status. */
  faultProperties?: { [statusCode: number]: Json };
  /**
   * Faults that an idempotency key may replay. Undefined if the operation takes no idempotency key. All successes are
   * replayed.
   */
  replayedFaults?: FaultCode[];
};

/** Headers and faults of operations that enqueue. */
const QUEUED = {
  headers: ['ratelimit-policy', 'ratelimit'],
  faults: [
    'IDEMPOTENCY_KEY_INVALID',
    'IDEMPOTENCY_KEY_REPEATED',
    'IDEMPOTENCY_KEY_REUSED',
    'TOO_MANY_IDEMPOTENCY_KEYS',
    'RATE_LIMITED',
    'QUEUE_UNAVAILABLE',
    'QUEUE_FULL',
    'OVERLOADED',
  ],
} satisfies { headers: HeaderName[]; faults: FaultCode[] };

/** Faults of a body, of one entry or of many. */
const BODY_FAULTS = [
  'BODY_MALFORMED',
  'BODY_INVALID',
  'MEDIA_TYPE_UNSUPPORTED',
  'BODY_COMPRESSED',
  'GZIP_INVALID',
  'DEFLATE_INVALID',
  'CHUNKS_TOO_SMALL',
] satisfies FaultCode[];
const BATCH_FAULTS = [...BODY_FAULTS, 'BATCH_EMPTY', 'BATCH_TOO_LARGE', 'BATCH_TOO_LONG'] satisfies FaultCode[];

const toBatch = (schema: string): Json => ({
  type: 'array',
  minItems: 1,
  maxItems: LIMITS.batchEntries,
  items: { $ref: `#/components/schemas/${schema}` },
});

const JANE = { customerId: 7519, customerEmail: 'jane@example.com', customerFirstName: 'Jane' };
const UPDATE = {
  customerId: '7519',
  customerPhone: '+41 44 668 18 00',
  customerFirstName: '',
  customerLastName: 'Doe',
};

export const postEntry: Operation = {
  method: 'post',
  path: '/entry',
  operationId: 'postEntry',
  tag: 'Entries',
  summary: 'Create or update a customer',
  description: `Send what you know about the customer under your own id. Later, send the same id with the fields that are new. An answer of 201 or 202 means that the entry is queued safely. We write it to the database a moment later.

If the order of a customer's entries matters, wait for each answer before you send the next entry. You can send entries of different customers in parallel.

The body may have up to ${toSize(LIMITS.entryBytes)}. We read it as JSON under any content type except those of forms.`,
  parameters: ['requestId', 'idempotencyKey', 'contentEncoding'],
  requestBody: {
    description: ENTRY_RULES,
    required: true,
    content: {
      'application/json': {
        schema: { $ref: '#/components/schemas/Entry' },
        examples: {
          create: { summary: 'A new customer', value: JANE },
          update: { summary: 'New fields of a customer', value: UPDATE },
        },
      },
    },
  },
  optionalHeaders: QUEUED.headers,
  successes: [
    { answer: ANSWERS.created, headers: ['receipt'], description: 'Accepted. We did not know this customer before.' },
    {
      answer: ANSWERS.updateAccepted,
      description: 'Accepted. We already know this customer, or could not look it up in time.',
      headers: ['receipt'],
    },
  ],
  faults: [...BODY_FAULTS, 'BODY_TOO_LARGE', ...QUEUED.faults],
  replayedFaults: [],
};

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
  description: `The body is a JSON array, or NDJSON (one entry per line) with the content type \`application/x-ndjson\`. It may have up to ${toSize(LIMITS.batchBytes)}, and each entry up to ${toSize(LIMITS.entryBytes)}. Each entry gets the result that a single call would have had. An invalid entry does not affect the others.

Entries of the same customer apply in the order of the batch. If we cannot accept the rest of a batch, results are 503, or 429 if your rate limit is reached, and the answer has \`retry-after\`: look at each result. Send those entries again, in the same order. With an \`idempotency-key\`, send the whole batch again instead, with the same key: only what was refused is tried again. To send only a part of the batch, use a new key.

We read an array, or a compressed body, to its end before we accept any entry. We accept lines while they arrive, so if an upload is interrupted or turns out to be too large, the lines before that point may be accepted. It is safe to send them again, unless you have sent something newer of the same customers. With an \`idempotency-key\`, we read lines to their end first, too.`,
  parameters: ['requestId', 'idempotencyKey', 'contentEncoding'],
  requestBody: {
    description: ENTRY_RULES,
    required: true,
    content: {
      'application/json': {
        schema: toBatch('Entry'),
        examples: { entries: { summary: 'Three entries', value: BATCH } },
      },
      'application/x-ndjson': {
        schema: {
          type: 'string',
          description: `One entry per line, each of up to ${toSize(LIMITS.entryBytes)}. Empty lines are ignored.`,
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
        'One result per entry. The entries counted in `accepted` are queued safely; check `rejected` for the others. If no entry could be queued, the whole answer is a 503 or a 429.',
      schema: { $ref: '#/components/schemas/BatchAnswer' },
      examples: {
        accepted: {
          summary: 'All entries are accepted',
          value: {
            ...ANSWERS.multiStatus,
            accepted: 3,
            rejected: 0,
            results: [ANSWERS.created, ANSWERS.created, ANSWERS.updateAccepted],
            receipts: BATCH.map(() => RECEIPT_EXAMPLE),
          },
        },
        mixed: {
          summary: 'One of three entries is invalid',
          value: {
            ...ANSWERS.multiStatus,
            accepted: 2,
            rejected: 1,
            results: [ANSWERS.created, NO_CONTACT, ANSWERS.updateAccepted],
            receipts: [RECEIPT_EXAMPLE, null, RECEIPT_EXAMPLE],
          },
        },
      },
      optionalHeaders: ['retry-after'],
    },
  ],
  faults: [...BATCH_FAULTS, ...QUEUED.faults],
  replayedFaults: [],
};

const ASKED = [
  { customerId: 7519, receipt: RECEIPT_EXAMPLE },
  { customerId: '7519', receipt: RECEIPT_EXAMPLE },
];

export const postReceipts: Operation = {
  method: 'post',
  path: '/entries/receipts',
  operationId: 'postReceipts',
  tag: 'Entries',
  summary: `Ask what became of up to ${LIMITS.batchEntries} entries`,
  description: `Takes up to ${LIMITS.batchEntries} receipts and ${toSize(LIMITS.batchBytes)}, and changes nothing. Needs the scope \`read\`. If one receipt is invalid, the whole answer is a 400 that names it, counted from 0.`,
  parameters: ['requestId', 'contentEncoding'],
  requestBody: {
    required: true,
    content: {
      'application/json': {
        schema: toBatch('AskedReceipt'),
        examples: { receipts: { summary: 'Two receipts', value: ASKED } },
      },
    },
  },
  successes: [
    {
      statusCode: 200,
      description: 'One result per receipt, in order.',
      schema: { $ref: '#/components/schemas/ReceiptsAnswer' },
      examples: {
        stored: {
          summary: 'Both entries are stored',
          value: { statusCode: 200, results: ASKED.map(() => ({ statusCode: 200, state: 'stored' })) },
        },
      },
    },
  ],
  faults: [...BATCH_FAULTS, 'CUSTOMERS_UNAVAILABLE'],
  mistakes: {
    BODY_INVALID: {
      'a receipt of another customer': () => parseAskedReceipt({ customerId: 7520, receipt: RECEIPT_EXAMPLE }, 1),
      'no receipt': () => parseAskedReceipt({ customerId: 7520 }, 0),
    },
  },
};

export const deleteEntry: Operation = {
  method: 'delete',
  path: '/entry/{customerId}',
  operationId: 'deleteEntry',
  tag: 'Customers',
  summary: 'Erase a customer',
  description: `Erases all entries of the customer that were accepted before the erasure. A moment later, only the id and the time of the erasure are left. We keep them for some weeks, so that no older entry can restore the customer. An entry that you send afterwards creates the customer anew.

Without an \`idempotency-key\`, a repeat after a lost answer may be a 404. Then, too, nothing older is left.`,
  parameters: ['customerId', 'requestId', 'idempotencyKey'],
  optionalHeaders: QUEUED.headers,
  successes: [{ answer: ANSWERS.erasureAccepted, description: 'The erasure is queued safely.', headers: ['receipt'] }],
  faults: ['PATH_MALFORMED', 'PATH_INVALID', 'CUSTOMER_UNKNOWN', ...QUEUED.faults],
  replayedFaults: ['CUSTOMER_UNKNOWN'],
};

export const getPing: Operation = {
  method: 'get',
  path: '/ping',
  operationId: 'getPing',
  tag: 'API key',
  summary: 'Check the key',
  description: 'Checks the API key and does nothing else.',
  parameters: ['requestId'],
  successes: [{ answer: ANSWERS.pong, description: 'The key is valid.' }],
  faults: [],
};

/** A successful answer of an operation. */
export type Success = {
  description: string;
  /** Headers besides those of every answer. `optionalHeaders` may be missing. */
  headers?: HeaderName[];
  optionalHeaders?: HeaderName[];
} & ({ answer: Answer } | { statusCode: number; schema: Json; examples: Json });
