import { createTestDatabase, testPrefix } from '@opm/testkit';
import { createPostgresBackend, Queue } from 'bullmq';

export type Backend = { queue: Queue; factory?: typeof createPostgresBackend; release(): Promise<void> };

/** Both queue stores, each with a function that opens a queue of its own. */
export const BACKENDS = {
  async Redis(): Promise<Backend> {
    const queue = new Queue('entries-0', {
      connection: { url: process.env.OPM_TEST_REDIS_URL },
      prefix: testPrefix(),
    });
    return {
      queue,
      async release() {
        await queue.obliterate({ force: true });
        await queue.close();
      },
    };
  },
  async PostgreSQL(): Promise<Backend> {
    const database = await createTestDatabase();
    const connection = { connectionString: database.url, schema: 'bullmq', migrate: true };
    const queue = new Queue('entries-0', { connection }, createPostgresBackend) as unknown as Queue;
    return {
      queue,
      factory: createPostgresBackend,
      async release() {
        await queue.close();
        await database.drop();
      },
    };
  },
};

export function isOnRedis(queue: Queue): boolean {
  return 'client' in queue.getBackend();
}
