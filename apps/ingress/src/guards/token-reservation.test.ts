import { expect, test } from '@jest/globals';
import type { RateLimit } from '@opm/core';
import fc from 'fast-check';
import { TokenReservation } from './token-reservation.js';

/** A bucket and the ingresses that share it, with a fake clock in milliseconds. */
function simulate(limit: RateLimit, ingresses: number) {
  const reservations = Array.from({ length: ingresses }, () => new TokenReservation(1, limit));
  const { rate, burst } = limit;
  const start = 1_000_000; // no timestamp is 0
  let now = start;
  let tokens = burst;
  let calls = 0;
  let mostAhead = 0;

  function pass(ms: number): void {
    now += ms;
    tokens = Math.min(burst, tokens + (rate * ms) / 1_000);
  }

  /** @returns how many of the entries get a token */
  function send(entries: number, ingress = 0): number {
    const reservation = reservations[ingress] as TokenReservation;
    if (reservation.isShort(entries, now)) {
      calls++;
      const { wanted, returned } = reservation.toCall(entries, now);
      mostAhead = Math.max(mostAhead, wanted - entries);
      tokens = Math.min(burst, tokens + returned);
      const granted = Math.min(wanted, Math.floor(tokens));
      tokens -= granted;
      reservation.onReserved({ granted, available: tokens }, now);
      reservation.endCall();
    }
    return reservation.use(entries, now);
  }

  const secondsUntil = (entries: number) => (reservations[0] as TokenReservation).secondsUntil(entries, now);
  const remaining = () => (reservations[0] as TokenReservation).remaining(now);
  const passed = () => now - start;
  const block = (tokens: number) => (reservations[0] as TokenReservation).block(tokens, now);
  return { pass, send, block, secondsUntil, remaining, passed, calls: () => calls, mostAhead: () => mostAhead };
}

const limits = fc.record({
  rate: fc.constantFrom(1, 2, 10, 64, 1_000, 1_000_000), // rates whose effects are measurable in ms with floating point
  burst: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(100, 4_096, 1_000_000)),
});
const entries = fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 1_000 }));
const waits = fc.oneof(fc.constantFrom(0, 1), fc.integer({ min: 0, max: 60 }), fc.integer({ min: 0, max: 5_000 }));
const steps = fc.array(fc.record({ ms: waits, ingress: fc.nat({ max: 2 }), entries }), { maxLength: 150 });

test('for any entries to any ingress, at most the burst and what the rate adds is accepted', () => {
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
        // The limit also holds from any moment on, except for tokens reserved in advance by then, which are used or
        // returned.
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

test('a client that waits for retry-after is accepted, with at most a burst of entries', () => {
  fc.assert(
    fc.property(limits, steps, entries, (limit, sent, more) => {
      const { pass, send, secondsUntil } = simulate(limit, 1);
      for (const { ms, entries } of sent) {
        pass(ms);
        send(entries);
      }
      const refused = more - send(more);
      if (refused === 0) return;
      pass(secondsUntil(refused) * 1_000 + 1e-3); // the answer itself takes longer than this
      expect(send(refused)).toBe(Math.min(refused, limit.burst));
    }),
  );
});

test('a client that sends at most the remaining entries is accepted', () => {
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

test('refused requests beyond the tokens block the project until the rate has added them, at most ten seconds', () => {
  const debts = fc.array(fc.record({ ms: waits, tokens: entries }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(limits, steps, debts, (limit, sent, refused) => {
      const { pass, send, remaining, secondsUntil, block } = simulate(limit, 1);
      for (const { ms, entries } of sent) {
        pass(ms);
        send(entries);
      }
      let blockedMs = 0;
      for (const { ms, tokens } of refused) {
        pass(ms);
        block(tokens);
        blockedMs = Math.min(10_000, Math.max(0, blockedMs - ms) + (tokens / limit.rate) * 1_000);
      }
      expect(secondsUntil(1)).toBeGreaterThanOrEqual(Math.ceil(blockedMs / 1_000 - 1e-6));
      pass(blockedMs * 0.99);
      if (blockedMs > 0) expect([send(1), remaining()]).toEqual([0, 0]);
      pass(secondsUntil(1) * 1_000 + 1e-3);
      expect(send(1)).toBe(1);
    }),
  );
});

test.each([
  ['a project within its limit', { rate: 5_000, burst: 5_000 }, 2, 12],
  ['one that sends ten times its limit', { rate: 1_000, burst: 1_000 }, 10, 42],
  ['one with a large burst', { rate: 1, burst: 100_000 }, 5, 12],
  ['one with a low limit', { rate: 1, burst: 1 }, 5, 2],
])('%s gets its limit with a few token reservations a second', (_, limit, perMs, callsPerSecond) => {
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

test('a request waits for the call on its way, which may bring tokens', () => {
  const reservation = new TokenReservation(1, { rate: 1, burst: 160 });
  const hasCall = (now: number) => reservation.isShort(1, now);
  reservation.toCall(1, 1_000_000);
  reservation.onReserved({ granted: 5, available: 0.1 }, 1_000_000);
  reservation.endCall();
  const later = 1_000_150; // the reserved tokens have expired
  expect(hasCall(later)).toBe(true);
  expect(reservation.toCall(1, later).returned).toBe(5);
  expect(hasCall(later)).toBe(true);
  reservation.endCall(); // failed
  expect(hasCall(later)).toBe(false);
});
