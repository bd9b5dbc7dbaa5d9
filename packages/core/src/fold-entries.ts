import type { CustomerEntry } from './customer-entry.js';
import { type CustomerState, mergeCustomer, toState } from './merge-customer.js';

/** One state per customer, whatever the order and number of the entries: a statement may not touch a row twice. */
export function foldEntries(entries: Iterable<CustomerEntry>): Map<string, CustomerState> {
  const states = new Map<string, CustomerState>();
  for (const entry of entries) {
    const state = toState(entry);
    const known = states.get(entry.customerId);
    states.set(entry.customerId, known ? mergeCustomer(known, state) : state);
  }
  return states;
}
