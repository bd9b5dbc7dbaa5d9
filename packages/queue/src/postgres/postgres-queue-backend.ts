import { createPostgresBackend, type Queue, type Worker, withBackend } from 'bullmq';
import pg from 'pg';
import type { QueueBackend, Role } from '../queue-backend.js';
import { createPostgresAdmission } from './postgres-admission.js';

const bullmq = withBackend(createPostgresBackend);

const CONNECTION = {
  producer: { max: 4, connectionTimeoutMillis: 1_000, statement_timeout: 1_000, query_timeout: 1_000 },
  worker: { max: 4, connectionTimeoutMillis: 10_000, query_timeout: 30_000, keepAliveInitialDelayMillis: 10_000 },
  dashboard: { max: 2, connectionTimeoutMillis: 5_000 },
} satisfies Record<Role, pg.PoolConfig>;

export function createPostgresQueueBackend(options: {
  databaseUrl: string;
  role: Role;
  onError: (error: Error) => void;
}): QueueBackend {
  const { databaseUrl, role, onError } = options;
  const connection = { ...CONNECTION[role], connectionString: databaseUrl, keepAlive: true };
  // What admission writes is flushed by the enqueue that follows it: see the migration that defines it.
  const pool = new pg.Pool({ ...connection, options: '-c synchronous_commit=off' });
  pool.on('error', onError);

  const ping = async () => {
    await pool.query('SELECT FROM admission.shards LIMIT 0');
  };
  return {
    admission: createPostgresAdmission(pool),
    createQueue({ name }, queueOptions) {
      const queue = new bullmq.Queue(name, { ...queueOptions, connection });
      return queue.on('error', onError) as unknown as Queue;
    },
    createWorker({ name }, processor, workerOptions) {
      const worker = new bullmq.Worker(name, processor, { ...workerOptions, connection });
      return worker.on('error', onError) as unknown as Worker;
    },
    ping,
    check: ping,
    memoryUse: async () => 0,
    close: () => pool.end(),
  };
}
