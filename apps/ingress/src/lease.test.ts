import { expect, test } from '@jest/globals';
import type { RateLimit } from '@opm/core';
import fc from 'fast-check';
import { Lease } from './lease.js';

/** A bucket and the ingresses that share it, by a clock in milliseconds that stands still until it is told to go on. */
function simulate(limit: RateLimit, ingresses: number) {
  const leases = Array.from({ length: ingresses }, () => new Lease(1, limit));
  const { rate, burst } = limit;
  const start = 1_000_000; // no time is 0
  let now = start;
  let tokens = burst;
  let calls = 0;
  let mostAhead = 0;

  function pass(ms: number): void {
    now += ms;
    tokens = Math.min(burst, tokens + (rate * ms) / 1_000);
  }

  /** @returns how many of the entries are let through */
  function send(entries: number, ingress = 0): number {
    const lease = leases[ingress] as Lease;
    if (lease.isShort(entries, now)) {
      calls++;
      const { wanted, returned } = lease.toCall(entries, now);
      mostAhead = Math.max(mostAhead, wanted - entries);
      tokens = Math.min(burst, tokens + returned);
      const granted = Math.min(wanted, Math.floor(tokens));
      tokens -= granted;
      lease.onLeased({ granted, available: tokens }, now);
    }
    return lease.use(entries, now);
  }

  const secondsUntil = (entries: number) => (leases[0] as Lease).secondsUntil(entries, now);
  const remaining = () => (leases[0] as Lease).remaining(now);
  const passed = () => now - start;
  const bar = (tokens: number) => (leases[0] as Lease).bar(tokens, now);
  return { pass, send, bar, secondsUntil, remaining, passed, calls: () => calls, mostAhead: () => mostAhead };
}

const limits = fc.record({
  rate: fc.constantFrom(1, 2, 10, 64, 1_000, 1_000_000), // what floating point and a millisecond can tell apart
  burst: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(100, 4_096, 1_000_000)),
});
const entries = fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 1_000 }));
const waits = fc.oneof(fc.constantFrom(0, 1), fc.integer({ min: 0, max: 60 }), fc.integer({ min: 0, max: 5_000 }));
const steps = fc.array(fc.record({ ms: waits, ingress: fc.nat({ max: 2 }), entries }), { maxLength: 150 });

test('however entries come and to whichever ingress, the burst and what the time brings is the most that gets through', () => {
  fc.assert(
    fc.property(limits, steps, (limit, sent) => {
      const { rate, burst } = limit;
      const { pass, send, passed, mostAhead } = simulate(limit, 3);
      const ahead = Math.max(rate / 10, burst / 16);
      const used: { at: number; total: number }[] = [];
      let total = 0;
      for (const { ms, ingress, entries } of sent) {
        pass(ms);
        const before = total;
        total += send(entries, ingress);
        expect(total).toBeLessThanOrEqual(burst + (rate * passed()) / 1_000 + 1e-6);
        // From any moment on, too, but for what had been leased ahead by then: it is used, or goes back.
        used.push({ at: passed(), total: before });
        for (const earlier of used) {
          const allowed = burst + (rate * (passed() - earlier.at)) / 1_000 + 3 * ahead + 1e-6;
          expect(total - earlier.total).toBeLessThanOrEqual(allowed);
        }
      }
      expect(mostAhead()).toBeLessThanOrEqual(ahead);
    }),
  );
});

test('who waits as they are told is let through, with as many as the burst has room for', () => {
  fc.assert(
    fc.property(limits, steps, entries, (limit, sent, more) => {
      const { pass, send, secondsUntil } = simulate(limit, 1);
      for (const { ms, entries } of sent) {
        pass(ms);
        send(entries);
      }
      const refused = more - send(more);
      if (refused === 0) return;
      pass(secondsUntil(refused) * 1_000 + 1e-3); // nobody can be faster than the answer that told them
      expect(send(refused)).toBe(Math.min(refused, limit.burst));
    }),
  );
});

test('who sends no more than remains is let through', () => {
  fc.assert(
    fc.property(limits, steps, (limit, sent) => {
      const { pass, send, remaining } = simulate(limit, 1);
      for (const { ms, entries } of sent) {
        pass(ms);
        send(entries);
        const some = remaining();
        expect(send(some)).toBe(some);
      }
    }),
  );
});

test('what is refused beyond the tokens there are lets nothing through until the rate would have brought them, ten seconds at most', () => {
  const debts = fc.array(fc.record({ ms: waits, tokens: entries }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(limits, steps, debts, (limit, sent, refused) => {
      const { pass, send, remaining, secondsUntil, bar } = simulate(limit, 1);
      for (const { ms, entries } of sent) {
        pass(ms);
        send(entries);
      }
      let barredMs = 0;
      for (const { ms, tokens } of refused) {
        pass(ms);
        bar(tokens);
        barredMs = Math.min(10_000, Math.max(0, barredMs - ms) + (tokens / limit.rate) * 1_000);
      }
      expect(secondsUntil(1)).toBeGreaterThanOrEqual(Math.ceil(barredMs / 1_000 - 1e-6));
      pass(barredMs * 0.99);
      if (barredMs > 0) expect([send(1), remaining()]).toEqual([0, 0]);
      pass(secondsUntil(1) * 1_000 + 1e-3);
      expect(send(1)).toBe(1);
    }),
  );
});

test.each([
  ['a project within its limit', { rate: 5_000, burst: 5_000 }, 2, 12],
  ['one that sends ten times as much as it may', { rate: 1_000, burst: 1_000 }, 10, 42],
  ['one that may send all at once', { rate: 1, burst: 100_000 }, 5, 12],
  ['one that may send little', { rate: 1, burst: 1 }, 5, 2],
])('%s gets what it may, and calls for tokens a few times a second only', (_, limit, perMs, callsPerSecond) => {
  const { pass, send, calls } = simulate(limit, 1);
  let through = 0;
  for (let ms = 0; ms < 10_000; ms++) {
    for (let i = 0; i < perMs; i++) through += send(1);
    pass(1);
  }
  expect(calls()).toBeLessThanOrEqual(callsPerSecond * 10);
  const allowed = Math.min(perMs * 10_000, limit.burst + limit.rate * 10);
  expect(through).toBeGreaterThanOrEqual(allowed - Math.max(1, limit.rate / 20));
});
