import { ANSWERS } from '../answers.js';
import { LIMITS, toSize } from '../limits.js';
import { type Operation, QUEUED } from './operation.js';
import { ENTRY_RULES } from './schemas.js';

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
  description: `Send what you know of the customer under the id that you use for them; later, send the id again with whatever is new. The answer promises that the entry is queued safely; the database follows a moment later.

Wait for an answer before you send the next entry of the same customer if their order matters; entries of different customers can go out in parallel.

The body may have ${toSize(LIMITS.entryBytes)}. It is read as JSON whatever its content type is, with the exception of forms.`,
  parameters: ['requestId', 'idempotencyKey'],
  requestBody: {
    description: ENTRY_RULES,
    required: true,
    content: {
      'application/json': {
        schema: { $ref: '#/components/schemas/Entry' },
        examples: {
          create: { summary: 'A new customer', value: JANE },
          update: { summary: 'What is new of a customer', value: UPDATE },
        },
      },
    },
  },
  optionalHeaders: QUEUED.headers,
  successes: [
    { answer: ANSWERS.created, description: 'Accepted. We did not know this customer before this entry.' },
    {
      answer: ANSWERS.updateAccepted,
      description: 'Accepted. We know this customer already, or could not look it up just then.',
    },
  ],
  faults: [
    'BODY_MALFORMED',
    'BODY_INVALID',
    'BODY_TOO_LARGE',
    'MEDIA_TYPE_UNSUPPORTED',
    'BODY_COMPRESSED',
    'CHUNKS_TOO_SMALL',
    ...QUEUED.faults,
  ],
  replayedFaults: [],
};
