import { cpus } from 'node:os';
import { query, withRedis } from './test-database.js';

/** Formats an aligned Markdown table. Columns whose head begins with # hold numbers. */
export function toTable(heads: string[], rows: string[][]): string {
  const lines = [heads.map((head) => head.replace(/^#/, '')), ...rows];
  const widths = heads.map((_, column) => Math.max(3, ...lines.map((cells) => cells[column]?.length ?? 0)));
  const isNumber = heads.map((head) => head.startsWith('#'));
  const pad = (cell: string, column: number) =>
    isNumber[column] ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0);
  const rule = widths.map((width, column) => (isNumber[column] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  const [head = [], ...body] = lines.map((cells) => cells.map(pad));
  return [head, rule, ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

export const toWhole = (value: number) => Math.round(value).toLocaleString('en-US');

/** The median; NaN for an empty array. */
export function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

/**
 * Describes the machine and the versions that figures depend on, in one line that ends with today's date.
 * @param others more parts of the line
 */
export async function describeMachine(
  { databaseUrl, redisUrl }: { databaseUrl: string; redisUrl?: string | undefined },
  others: string[] = [],
): Promise<string> {
  const [cpu] = cpus();
  const redis = redisUrl === undefined ? [] : [`Redis ${await readRedisVersion(redisUrl)}`];
  const parts = [
    `${cpus().length} × ${cpu?.model.trim()}`,
    `Node.js ${process.versions.node}`,
    `PostgreSQL ${await readPostgresVersion(databaseUrl)}`,
    ...redis,
    ...others,
    new Date().toISOString().slice(0, 10),
  ];
  return parts.join(', ');
}

async function readPostgresVersion(databaseUrl: string): Promise<string> {
  const [row] = await query<{ server_version: string }>(databaseUrl, 'SHOW server_version');
  return row?.server_version.split(' ')[0] ?? 'of unknown version';
}

async function readRedisVersion(redisUrl: string): Promise<string> {
  const [first = redisUrl] = redisUrl.split(',');
  const info = await withRedis(first, (redis) => redis.info('server'));
  return /^redis_version:(\S+)/m.exec(info)?.[1] ?? 'of unknown version';
}
