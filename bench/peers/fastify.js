import { fastify } from 'fastify';

// The same as bare.js on Fastify, a framework known to be fast.
const app = fastify();
app.post('/entry', (_request, reply) => reply.code(201).send({ statusCode: 201, message: 'OK - Created' }));
await app.listen({ port: 0, host: '127.0.0.1' });
console.log(`listening on ${app.server.address().port}`);
