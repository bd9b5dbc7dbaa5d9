import { randomUUID } from 'node:crypto';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import type { Target } from '../contenders.js';
import type { Shape } from './shapes.js';

export const MIB = 2 ** 20;
const UPLOADS = 4;

/** Entries that come alone take so much longer than others that fewer are enough. */
const PART_OF_SINGLES = 1 / 16;

/** Sends bodies of one shape, a few at the same time. @returns MiB of them @throws Error where one is not answered as it should be */
export async function uploadAll({ url, apiKey }: Target, shape: Shape, mib: number): Promise<number> {
  const agent = new Agent({ keepAlive: true, maxSockets: UPLOADS });
  let bytes = 0;
  const wanted = mib * MIB * (shape.isSingle ? PART_OF_SINGLES : 1);
  const sendSome = async () => {
    while (bytes < wanted) {
      const body = shape.next();
      bytes += body.length * (shape.chunkBytes ? 1 + 5 / shape.chunkBytes : 1); // a chunk's frame takes five
      await upload(body);
    }
  };
  await Promise.all(Array.from({ length: UPLOADS }, sendSome));
  agent.destroy();
  return bytes / MIB;

  async function upload(body: Buffer): Promise<void> {
    const { name, statuses, chunkBytes } = shape;
    const { status, answer } = await (chunkBytes ? sendChunks(body, chunkBytes) : send(body));
    if (status === 503) return upload(body); // as a partner does
    if (!statuses.includes(status)) throw new Error(`${name}: ${status} ${answer.slice(0, 200)}`);
  }

  function toHeaders() {
    const { type, isKeyed } = shape;
    return { 'x-api-key': apiKey, 'content-type': type, ...(isKeyed && { 'idempotency-key': randomUUID() }) };
  }

  function send(body: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const headers = { ...toHeaders(), 'content-length': body.length };
      const outgoing = request(url + shape.path, { method: 'POST', agent, headers }, async (response) => {
        resolve({ status: response.statusCode ?? 0, answer: await text(response) });
      });
      outgoing.on('error', reject).end(body);
    });
  }

  /** Past Node’s client: it would take longer to write them one by one than the ingress waits. */
  async function sendChunks(body: Buffer, bytes: number): Promise<Answer> {
    const { hostname, port } = new URL(url);
    const headers = { ...toHeaders(), host: hostname, connection: 'close', 'transfer-encoding': 'chunked' };
    const lines = Object.entries(headers).map(([header, value]) => `${header}: ${value}\r\n`);
    const socket = connect(Number(port), hostname);
    socket.write(`POST ${shape.path} HTTP/1.1\r\n${lines.join('')}\r\n${toChunks(body, bytes)}`);
    const answer = await text(socket);
    return { status: Number(answer.split(' ', 2)[1]), answer };
  }
}

type Answer = { status: number; answer: string };

function toChunks(body: Buffer, bytes: number): string {
  const chunks = Array.from({ length: Math.ceil(body.length / bytes) }, (_, i) =>
    body.toString('latin1', i * bytes, (i + 1) * bytes),
  );
  return `${chunks.map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join('')}0\r\n\r\n`;
}
