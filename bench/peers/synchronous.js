import { PrismaPg } from '@prisma/adapter-pg';
import { fastify } from 'fastify';
import { PrismaClient } from '../../packages/store/dist/generated/client.js';
import { entrySchema, toFields } from './entry-schema.js';

// The API without a queue: find the customer, save it, answer once it is stored.
const { DATABASE_URL: connectionString, API_KEY } = process.env;
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString, max: 10 }) });

const app = fastify();

// A single comparison favours this peer: no key look-up could be cheaper.
app.addHook('onRequest', async (request, reply) => {
  if (request.headers['x-api-key'] === API_KEY) return;
  return reply.code(401).send({ statusCode: 401, error: 'Unauthorized', message: 'API key does not exist' });
});

app.post('/entry', { schema: { body: entrySchema } }, async ({ body }, reply) => {
  const where = { projectId_customerId: { projectId: 1, customerId: body.customerId } };
  const data = { ...toFields(body), updatedAt: new Date() };
  if (await prisma.customer.findUnique({ where, select: { customerId: true } })) {
    await prisma.customer.update({ where, data });
    return reply.code(202).send({ statusCode: 202, message: 'OK - Update accepted' });
  }
  await prisma.customer.create({
    data: { ...data, projectId: 1, customerId: body.customerId, createdAt: data.updatedAt },
  });
  return reply.code(201).send({ statusCode: 201, message: 'OK - Created' });
});

await app.listen({ port: 0, host: '127.0.0.1' });
console.log(`listening on ${app.server.address().port}`);
