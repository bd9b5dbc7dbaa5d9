import { parseCustomer, type Sent, toValue } from './ledger.js';

/** A request to an ingress. */
export type Call = { method: 'POST' | 'DELETE'; path: string; body?: string };

export function toSingle(sent: Sent): Call {
  return sent.erases
    ? { method: 'DELETE', path: `/entry/${parseCustomer(sent.customerId).id}` }
    : { method: 'POST', path: '/entry', body: JSON.stringify(toBody(sent)) };
}

export function toBatch(all: Sent[]): Call {
  return { method: 'POST', path: '/entries', body: JSON.stringify(all.map(toBody)) };
}

const PROPERTY = {
  email: 'customerEmail',
  phone: 'customerPhone',
  firstName: 'customerFirstName',
  lastName: 'customerLastName',
  ip: 'customerIP',
} as const;

function toBody({ customerId, fields, id }: Sent): Record<string, string> {
  const { id: own } = parseCustomer(customerId);
  return { customerId: own, ...Object.fromEntries(fields.map((field) => [PROPERTY[field], toValue(id, field)])) };
}
