import { expect } from '@jest/globals';
import { toOpenApiDocument } from '@opm/contract';
import { createContractCheck, type Exchange } from '@opm/testkit';

export type Answer = { status: number; requestId: string | undefined; text: string; headers: Map<string, string> };

const check = createContractCheck(toOpenApiDocument({ version: '0.0.0' }));

export const isAccepted = ({ status }: Answer) => status === 201 || status === 202;

/**
 * Checks an answer against the OpenAPI document.
 * @param request if missing, the answer may be that of any request
 * @throws Error if the document does not have the answer
 */
export function checkDocumented({ status, headers, text }: Answer, request?: Exchange['request']): void {
  check({ status, headers, body: text, ...(request && { request }) });
}

/** Expects a documented answer that is not 5xx: no request of a client may cause a server error. */
export function expectDocumented(answer: Answer): void {
  checkDocumented(answer);
  const { status, text } = answer;
  expect(status).toBeLessThan(500);
  if (status !== 207 || text === '') return;
  const { accepted, rejected, results } = JSON.parse(text) as { results: { statusCode: number }[] } & Record<
    string,
    number
  >;
  const statuses = results.map(({ statusCode }) => statusCode);
  expect(statuses.filter((code) => code >= 500)).toEqual([]);
  expect(accepted).toBe(statuses.filter((code) => code < 300).length);
  expect(rejected).toBe(statuses.filter((code) => code >= 300).length);
}

/**
 * Splits the data of a connection, read as latin1, into answers. `rest` is the beginning of an incomplete answer.
 * @param isHead whether these are answers to HEAD, which have no body
 */
export function parseAnswers(text: string, { isHead = false } = {}): { answers: Answer[]; rest: string } {
  const answers: Answer[] = [];
  let rest = text;
  for (;;) {
    const { head, end } = measurePart(rest, isHead);
    if (rest.length < end) return { answers, rest };
    const headers = new Map(
      Array.from(head.matchAll(/\r\n([^:\r]+): (.*)/g), ([, name = '', value = '']) => [name.toLowerCase(), value]),
    );
    const status = statusOf(head);
    const body = rest.slice(head.length, end);
    if (status !== 100) answers.push({ status, requestId: headers.get('x-request-id'), headers, text: body });
    rest = rest.slice(end);
  }
}

/**
 * Returns the head of the first answer or 100 in the text, and the end of its body; infinity if the head is incomplete.
 */
function measurePart(text: string, isHead: boolean): { head: string; end: number } {
  const headEnd = text.indexOf('\r\n\r\n') + 4;
  if (headEnd < 4) return { head: '', end: Number.POSITIVE_INFINITY };
  const head = text.slice(0, headEnd);
  const length = isHead ? 0 : Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
  return { head, end: headEnd + length };
}

const statusOf = (head: string): number => Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]);

/** Returns where the first answer ends, including a 100 before it, and whether the connection stays open after it. */
export function measureAnswer(text: string, isHead: boolean): { end: number; isKeptAlive: boolean } {
  const { head, end } = measurePart(text, isHead);
  if (statusOf(head) !== 100) return { end, isKeptAlive: !/\r\nconnection: close\r/i.test(head) };
  const next = measureAnswer(text.slice(end), isHead);
  return { ...next, end: end + next.end };
}
