import calculateSlot from 'cluster-key-slot';

const SLOTS = 16_384;

/**
 * The hash tag of a shard, such as `{opm-0}` or `{opm-0.42}`: the first whose slot is in the middle of the shard's share of all
 * slots. A master has a range of them, as `redis-cli --cluster create` deals them out in order. So with as many shards as
 * masters, or a multiple, each has as many shards as the others, wherever exactly the ranges end. What is behind the last `-`
 * tells shard and attempt, so no other prefix has the same tag.
 * https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
 */
export function toHashTag(prefix: string, shard: number, shards: number): string {
  for (let attempt = 0; ; attempt++) {
    const tag = attempt === 0 ? `{${prefix}-${shard}}` : `{${prefix}-${shard}.${attempt}}`;
    const place = (calculateSlot(tag) / SLOTS) * shards - shard;
    if (shards === 1 || (place > 0.25 && place < 0.75)) return tag;
  }
}
