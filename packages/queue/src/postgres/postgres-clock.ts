import type pg from 'pg';
import { type DeadlineLimits, measureSkew } from '../clock-skew.js';

const NOW = '(extract(epoch FROM clock_timestamp()) * 1000)';

export async function readClockSkews(pool: pg.Pool): Promise<number[]> {
  const skew = await measureSkew(async () => {
    const { rows } = await pool.query<{ now: string }>({ name: 'read-clock', text: `SELECT ${NOW} AS now` });
    return Number(rows[0]?.now);
  });
  return [skew];
}

/** BullMQ keeps all of its deadlines as times of a clock, and when it looked for stalled jobs last. */
export async function shortenDeadlines(pool: pg.Pool, queue: string, limits: DeadlineLimits): Promise<void> {
  const { lockMs, delayMs } = limits;
  await pool.query(
    `UPDATE bullmq.job SET locked_until_ms = ${NOW} + $2::int
     WHERE queue = $1 AND state = 'active' AND locked_until_ms > ${NOW} + $2::int + 1000`,
    [queue, lockMs],
  );
  await pool.query(
    `UPDATE bullmq.job SET process_at_ms = ${NOW} + $2::int
     WHERE queue = $1 AND state = 'delayed' AND process_at_ms > ${NOW} + $2::int + 1000`,
    [queue, delayMs],
  );
  await pool.query(
    `UPDATE bullmq.meta SET value = floor(${NOW})::bigint::text
     WHERE queue = $1 AND field = 'stalled-check' AND value::bigint > ${NOW} + 1000`,
    [queue],
  );
}
