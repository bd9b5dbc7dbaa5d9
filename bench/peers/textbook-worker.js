import { PrismaPg } from '@prisma/adapter-pg';
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { PrismaClient } from '../../packages/store/dist/generated/client.js';

// The obvious first version of the worker: one job per entry, one upsert per job.
const { DATABASE_URL: connectionString, REDIS_URL, REDIS_PREFIX: prefix } = process.env;
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString, max: 10 }) });
const connection = new Redis(REDIS_URL, { maxRetriesPerRequest: null });

const worker = new Worker(
  'textbook',
  async ({ data: { customerId, fields, version } }) => {
    const now = new Date(version / 1_000);
    await prisma.customer.upsert({
      where: { projectId_customerId: { projectId: 1, customerId } },
      create: { projectId: 1, customerId, ...fields, createdAt: now, updatedAt: now },
      update: { ...fields, updatedAt: now },
    });
  },
  { connection, prefix, concurrency: 50, removeOnComplete: { count: 0 } },
);
await worker.waitUntilReady();
console.log('ready');

process.once('SIGTERM', async () => {
  await worker.close();
  await prisma.$disconnect();
  connection.disconnect();
});
