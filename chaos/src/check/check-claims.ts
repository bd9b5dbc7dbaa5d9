import type { Sent } from '../load/ledger.js';
import type { Finding } from './finding.js';

/**
 * When all jobs are done, a claim may be left only of what nobody knows the fate of, of what was refused, and of what was
 * under way while there were faults: settling it may have failed.
 * @param quietSince when the last fault was over, in milliseconds on the ledger's clock; missing where it is not
 */
export function checkClaims(
  claims: Set<string>,
  customers: Map<string, Sent[]>,
  quietSince = Number.POSITIVE_INFINITY,
): Finding[] {
  const findings: Finding[] = [];
  for (const customerId of claims) {
    const all = customers.get(customerId) ?? [];
    const last = all.at(-1);
    const isSettled = all.every(({ outcome, repeats }) => outcome === 'acknowledged' && !repeats);
    if (!last || !isSettled || last.sentAt < quietSince) continue;
    findings.push({ rule: 'left behind', at: last.sentAt, customerId, what: 'a claim, though all entries are done' });
  }
  return findings;
}
