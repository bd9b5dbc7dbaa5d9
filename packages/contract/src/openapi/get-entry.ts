import { toCustomerAnswer } from '../customer-answer.js';
import type { Operation } from './operation.js';

const STORED = {
  email: 'jane@example.com',
  phone: '+41 44 668 18 00',
  firstName: 'Jane',
  lastName: 'Doe',
  ip: null,
  createdAt: new Date('2026-11-24T17:00:00Z'),
  updatedAt: new Date('2026-11-24T17:05:30Z'),
};

export const getEntry: Operation = {
  method: 'get',
  path: '/entry/{customerId}',
  operationId: 'getEntry',
  tag: 'Customers',
  summary: 'Read a customer',
  description:
    'What we have stored, and whether something newer is on its way there. From the moment that an erasure is accepted the customer is a 404.',
  parameters: ['customerId', 'requestId'],
  successes: [
    {
      statusCode: 200,
      description: 'The customer. Where its first entry is not stored yet, all but the id is `null`.',
      schema: { $ref: '#/components/schemas/CustomerAnswer' },
      examples: {
        stored: { summary: 'All is stored', value: toCustomerAnswer('7519', STORED, false) },
        pending: { summary: 'The first entry is pending', value: toCustomerAnswer('7519', undefined, true) },
      },
    },
  ],
  faults: ['PATH_MALFORMED', 'PATH_INVALID', 'CUSTOMER_UNKNOWN', 'CUSTOMER_ERASED', 'CUSTOMERS_UNAVAILABLE'],
};
