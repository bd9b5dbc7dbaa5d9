import { crc32 } from 'node:zlib';

/** The shard of a customer: always the same one, so that a customer's claims and versions live in one place. */
export function shardOf(projectId: number, customerId: string, shards: number): number {
  return shards === 1 ? 0 : crc32(`${projectId}:${customerId}`) % shards;
}

/** The name of a shard's BullMQ queue. */
export function queueName(shard: number): string {
  return `entries-${shard}`;
}
