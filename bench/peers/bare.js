import { createServer } from 'node:http';

// The ceiling of Node.js: read the body, parse it, answer. It validates and stores nothing.
const ANSWER = Buffer.from('{"statusCode":201,"message":"OK - Created"}');
const HEADERS = { 'content-type': 'application/json; charset=utf-8', 'content-length': ANSWER.length };

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    JSON.parse(Buffer.concat(parts).toString());
    response.writeHead(201, HEADERS).end(ANSWER);
  });
});
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
