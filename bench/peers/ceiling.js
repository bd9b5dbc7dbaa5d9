import { createServer } from 'node:http';
import { fastify } from 'fastify';

// The ceiling of Node.js: read the body, parse it, answer. It validates and stores nothing. With the argument `bare` it
// runs on node:http, with `fastify` on a framework known to be fast.
const BODY = { statusCode: 201, message: 'OK - Created' };
const BYTES = Buffer.from(JSON.stringify(BODY));
const HEADERS = { 'content-type': 'application/json; charset=utf-8', 'content-length': BYTES.length };

function listenBare() {
  const server = createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      JSON.parse(Buffer.concat(parts).toString());
      response.writeHead(201, HEADERS).end(BYTES);
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
}

async function listenFastify() {
  const app = fastify();
  app.post('/entry', (_request, reply) => reply.code(201).send(BODY));
  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log(`listening on ${app.server.address().port}`);
}

await { bare: listenBare, fastify: listenFastify }[process.argv[2]]();
