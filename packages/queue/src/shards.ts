import { crc32 } from 'node:zlib';

/** The shard of a customer: always the same one, so that a customer's claims and versions live in one place. */
export function shardOf(projectId: number, customerId: string, shards: number): number {
  return shards === 1 ? 0 : crc32(`${projectId}:${customerId}`) % shards;
}

/** A BullMQ queue: of one of so many shards, or of none. */
export type QueueAddress = { name: string; shard?: { index: number; of: number } };

/** Where the entries of each shard are queued. */
export function toAddresses(shards: number): QueueAddress[] {
  return Array.from({ length: shards }, (_, index) => ({ name: `entries-${index}`, shard: { index, of: shards } }));
}
