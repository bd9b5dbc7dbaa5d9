/** Returns a request with these headers as latin1. For a body, the headers must include its length. */
export function toRequest(startLine: string, headers: string[], body = ''): string {
  return `${[`${startLine} HTTP/1.1`, 'host: test', ...headers].join('\r\n')}\r\n\r\n${body}`;
}

export function toEntryRequest(apiKey: string, customerId: string, headers: string[] = []): string {
  const body = JSON.stringify({ customerId, customerPhone: '1' });
  return toRequest('POST /entry', [`x-api-key: ${apiKey}`, `content-length: ${body.length}`, ...headers], body);
}
