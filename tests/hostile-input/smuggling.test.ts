import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createBackend } from '@opm/testkit';
import { toEntryRequest, toRequest } from './requests.js';
import { Stack } from './stack.js';

let stack: Stack;
beforeAll(async () => {
  stack = await Stack.start(await createBackend(process.env.OPM_TEST_REDIS_URL));
});
afterAll(async () => {
  await stack.expectUnharmed();
  await stack.stop();
});

const toChunk = (text: string, extension = '') => `${text.length.toString(16)}${extension}\r\n${text}\r\n`;
const END = '0\r\n\r\n';

describe('if one request hides another:', () => {
  const outer = '{"customerId":"outer","customerPhone":"1"}';
  const length = `content-length: ${outer.length}`;
  const chunked = 'transfer-encoding: chunked';

  // `before` is the text between the headers and the smuggled request.
  test.each<[how: string, headers: string[], before: string]>([
    ['a length and chunks', ['content-length: 9999', chunked], END],
    ['chunks and a length', [chunked, 'content-length: 5'], END],
    ['folded chunks', ['content-length: 9999', 'transfer-encoding:\r\n chunked'], END],
    ['chunks with a space before the colon', ['content-length: 9999', 'transfer-encoding : chunked'], END],
    ['chunks with a vertical tab', ['content-length: 9999', 'transfer-encoding: \x0bchunked'], END],
    ['chunks under another name', ['content-length: 9999', 'transfer-encoding: xchunked'], END],
    ['chunks after a bare LF', ['content-length: 9999', `x: y\n${chunked}`], END],
    ['chunks after a bare CR', ['content-length: 9999', `x: y\r${chunked}`], END],
    ['chunks, then identity', [chunked, 'transfer-encoding: identity'], toChunk(outer) + END],
    ['chunks, identity', ['transfer-encoding: chunked, identity'], toChunk(outer) + END],
    ['chunks twice', [chunked, chunked], toChunk(outer) + END],
    ['two lengths', ['content-length: 0', 'content-length: 9999'], ''],
    ['two equal lengths', [length, length], outer],
    ['a list of lengths', ['content-length: 0, 9999'], ''],
    ['a folded length', [`content-length:\r\n ${outer.length}`], outer],
    ['a signed length', [`content-length: +${outer.length}`], outer],
    ['a negative length', ['content-length: -1'], ''],
    ['a length in hex', ['content-length: 0x0'], ''],
    ['an empty length', ['content-length:'], ''],
    ['a length that overflows', ['content-length: 18446744073709551616'], ''],
    ['a folded header', ['x: y\r\n z', length], outer],
    ['a header that starts with a space', [' x: y', length], outer],
    ['a header without a colon', ['x', length], outer],
    ['a header without a name', [': y', length], outer],
    ['a bare LF as end of the headers', ['x: y\n', length], ''],
    ['a bare CR as end of the headers', ['x: y\r\r', length], ''],
    ['NUL in a header', ['x: y\0', length], outer],
    ['a chunk size that overflows', [chunked], `1000000000000000${toChunk(outer)}${END}`],
    ['a chunk size in 0x', [chunked], `0x${toChunk(outer)}${END}`],
    ['a signed chunk size', [chunked], `+${toChunk(outer)}${END}`],
    ['a negative chunk size', [chunked], `-${toChunk(outer)}${END}`],
    ['no chunk size', [chunked], `\r\n${outer}\r\n${END}`],
    ['a space before a chunk size', [chunked], ` ${toChunk(outer)}${END}`],
    ['a space after a chunk size', [chunked], toChunk(outer, ' ') + END],
    ['a chunk extension that ends with a bare LF', [chunked], toChunk(outer, ';x\n') + END],
    ['an endless chunk extension', [chunked], toChunk(outer, `;${'x'.repeat(20_000)}`) + END],
    ['a chunk size that ends with a bare LF', [chunked], `${outer.length.toString(16)}\n${outer}\r\n${END}`],
    ['a chunk longer than its size', [chunked], `5\r\n${outer}\r\n${END}`],
    ['a chunk that ends without CRLF', [chunked], `${toChunk(outer).slice(0, -2)}xx${END}`],
    ['a trailer that is a header', [chunked], `${toChunk(outer)}0\r\ncontent-length: 9999\r\n\r\n`],
  ])('%s: none is accepted', async (_, headers, before) => {
    const project = await stack.createProject();
    const smuggled = toEntryRequest(project.apiKey, 'smuggled');
    const [answer, ...others] = await stack.talk([
      toRequest('POST /entry', [`x-api-key: ${project.apiKey}`, ...headers], before + smuggled),
    ]);
    expect([answer?.status, others]).toEqual([400, []]);
    expect(await stack.readRows(project)).toEqual(new Map());
  });

  test.each<[how: string, headers: string[], toBody: (smuggled: string) => string, status: number]>([
    ['in a body that its length covers', ['content-length: 1000'], (text) => text.padEnd(1_000), 400],
    ['in a chunk', [chunked], (text) => toChunk(text) + END, 400],
    ['in a chunk with an extension', [chunked], (text) => toChunk(text, ';x=y') + END, 400],
    ['in a body labelled as compressed', [chunked, 'content-encoding: gzip'], (text) => toChunk(text) + END, 400],
    ['in a body in an unknown coding', [chunked, 'content-encoding: br'], (text) => toChunk(text) + END, 415],
    ['only a chunk extension', [chunked], () => toChunk(outer, ';x=y') + END, 201],
  ])('%s: only the outer one is answered', async (_, headers, toBody, status) => {
    const project = await stack.createProject();
    const body = toBody(toEntryRequest(project.apiKey, 'smuggled'));
    const first = toRequest('POST /entry', [`x-api-key: ${project.apiKey}`, ...headers], body);
    const last = toRequest('GET /ping', [`x-api-key: ${project.apiKey}`, 'connection: close']);
    const answers = await stack.talk([first, last]);
    expect(answers.map((answer) => answer.status)).toEqual([status, 200]);
    expect([...(await stack.readRows(project)).keys()]).toEqual(status === 201 ? ['outer'] : []);
  });
});
