import { PrismaPg } from '@prisma/adapter-pg';
import { Ajv } from 'ajv';
import { Queue, Worker } from 'bullmq';
import express from 'express';
import { Redis } from 'ioredis';
import { PrismaClient } from '../../packages/store/dist/generated/client.js';
import { entrySchema, toFields } from './entry-schema.js';

// The obvious first version of a queueing API. With the argument `api` it checks whether the customer exists and adds
// one job per request; with `worker` it makes one upsert per job.
const { DATABASE_URL: connectionString, REDIS_URL, REDIS_PREFIX: prefix, API_KEY } = process.env;
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString, max: 10 }) });
const connection = new Redis(REDIS_URL, { maxRetriesPerRequest: null });

function listen() {
  const queue = new Queue('textbook', { connection, prefix });
  const isEntry = new Ajv().compile(entrySchema);
  const app = express();
  app.use(express.json());

  // A single comparison favours this peer: no key look-up could be cheaper.
  app.use((request, response, next) => {
    if (request.headers['x-api-key'] === API_KEY) return next();
    response.status(401).json({ statusCode: 401, error: 'Unauthorized', message: 'API key does not exist' });
  });

  app.post('/entry', async (request, response) => {
    const { body } = request;
    if (!isEntry(body)) {
      response.status(400).json({ statusCode: 400, error: 'Bad Request', message: isEntry.errors[0].message });
      return;
    }
    const { customerId } = body;
    const existing = await prisma.customer.findUnique({
      where: { projectId_customerId: { projectId: 1, customerId } },
      select: { customerId: true },
    });
    await queue.add('entry', { customerId, version: Date.now() * 1_000, fields: toFields(body) });
    if (existing) response.status(202).json({ statusCode: 202, message: 'OK - Update accepted' });
    else response.status(201).json({ statusCode: 201, message: 'OK - Created' });
  });

  const server = app.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
}

async function work() {
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
}

await { api: listen, worker: work }[process.argv[2]]();
